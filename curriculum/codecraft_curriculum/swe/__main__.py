"""Write the repositories and ``swe.json`` into the directory that is given."""

from __future__ import annotations

import argparse

from codecraft_curriculum.swe import write_samples

parser = argparse.ArgumentParser(prog="python -m codecraft_curriculum.swe", description=__doc__)
parser.add_argument("directory", help="where to; made if it is missing")
write_samples(parser.parse_args().directory)
