"""The README's quickstart in Python. Run it twice:

python examples/quickstart.py share model.safetensors     # prints a ticket, serves until Ctrl-C
python examples/quickstart.py get lattica:… copy.safetensors
"""

from __future__ import annotations

import sys

import lattica


def main() -> None:
    """Share or get, as the first argument says."""
    match sys.argv[1:]:
        case ["share", path]:
            with lattica.Node() as node:
                shared = node.share(path, progress=True)
                print(shared.ticket, flush=True)
                node.serve_forever()
        case ["get", ticket, path]:
            with lattica.Node(home="~/.lattica-2") as node:
                got = node.get(ticket, path, progress=True)
                print(f"{got.path}: {got.size:,} bytes, every one verified against {got.cid}")
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
