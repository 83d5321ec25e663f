"""The operator's way in: lines and their limits, devices, calls, accounts, and who changed what.

Lines and devices are registered here and not beside their models, because what an operator does to them ends legs and
tells sockets, and `devices` may not know of calls. Commands on calls never run in the admin's change views: those run
inside a transaction, where the switchboard refuses to work.
"""

from django.contrib import admin

from calls.admin import audit, calls, devices, lines, people  # noqa: F401 - importing registers the pages

admin.site.site_header = admin.site.site_title = "Call platform"
admin.site.index_title = "Operator's panel"
