from django.contrib import admin

from .models import Entry


@admin.register(Entry)
class EntryAdmin(admin.ModelAdmin):
    list_display = ("name", "message", "written", "hidden")
    list_filter = ("hidden", "written")
    search_fields = ("name", "message")
