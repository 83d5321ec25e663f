"""What a call costs: the whole call over real sockets, on a real PostgreSQL and Redis. See docs/performance.md."""
