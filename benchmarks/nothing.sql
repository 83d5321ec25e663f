-- What it costs to connect: measured apart, and taken off.
select 1;
