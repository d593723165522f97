"""All pages."""

from __future__ import annotations

from modpkg.server.pages.candidate_pages import CANDIDATES
from modpkg.server.pages.forms import FORMS
from modpkg.server.pages.openid import OPENID
from modpkg.server.pages.site import SITE

PAGES = [SITE, CANDIDATES, FORMS, OPENID]
