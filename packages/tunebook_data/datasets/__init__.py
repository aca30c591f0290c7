"""Data sets that come with the package, derived from pinned data packages and authored files."""

from __future__ import annotations
