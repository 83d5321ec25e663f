"""The HTTP API: the way in for other people's software. docs/http-api.md is its contract.

A way in like the panel and the sockets: it holds no rule of calls, and every command goes to the switchboard.
"""
