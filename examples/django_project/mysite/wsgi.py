"""``pyserve mysite.wsgi`` serves ``application``.

Importing this opens no connection, so the server may import it once and fork its workers from there.
"""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

application = get_wsgi_application()
