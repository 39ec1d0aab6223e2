"""``python -m codecraft_async`` is ``codecraft``."""

from __future__ import annotations

import sys

from codecraft_async.cli import main

sys.exit(main())
