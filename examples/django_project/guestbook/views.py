import csv

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from .forms import EntryForm
from .models import Entry

SHOWN = 50


@require_http_methods(["GET", "HEAD", "POST"])
def index(request):
    """The guestbook: the form, and the latest entries under it."""
    form = EntryForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Thank you for the entry.")
        return redirect("index")
    page = {"form": form, "entries": Entry.objects.filter(hidden=False)[:SHOWN]}
    return render(request, "guestbook/index.html", page, status=400 if form.errors else 200)


class Line:
    """A file that keeps nothing: csv.writer returns what this returns, one line."""

    def write(self, text):
        return text


@login_required
@require_GET
def entries_csv(_request):
    """Every entry, one row at a time: neither the database's answer nor ours is ever in memory as a whole."""
    writer = csv.writer(Line())
    rows = Entry.objects.order_by("id").values_list("id", "written", "name", "message").iterator(chunk_size=500)
    lines = (writer.writerow(row) for table in ([("id", "written", "name", "message")], rows) for row in table)
    headers = {"Content-Disposition": 'attachment; filename="entries.csv"'}
    return StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8", headers=headers)
