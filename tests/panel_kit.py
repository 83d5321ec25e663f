"""Browsers in the operator's panel, in each role, and the files that go to it and come from it."""

import io

from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client
from openpyxl import Workbook

ROLES = ("viewer", "operator", "administrator")


def browser_of(user):
    client = Client()
    client.force_login(user)
    return client


def browser_in_role(user, role):
    """A browser of this user, who has this role and no other."""
    call_command("roles", verbosity=0)
    user.is_staff = True
    user.save()
    user.groups.set([Group.objects.get(name=role)])
    return browser_of(user)


def saved(response):
    """The whole of a file that is sent in parts."""

    async def parts():
        return b"".join([part async for part in response])

    assert response.streaming, response.content.decode()
    return async_to_sync(parts)()


def upload(client, file, format="0"):
    """What the panel says to a file of lines: format 0 is CSV, 1 is XLSX."""
    file = file.encode() if isinstance(file, str) else file
    return client.post(
        "/admin/devices/line/import/", {"format": format, "import_file": SimpleUploadedFile("lines", file)}
    )


def workbook(*rows):
    book, file = Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(file)
    return file.getvalue()
