from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path
from guestbook import views

urlpatterns = [
    path("", views.index, name="index"),
    path("entries.csv", views.entries_csv, name="entries-csv"),
    path("login/", LoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
]
