"""Play a part of the study, or go on with it: `python docs/study/run.py main --out runs/study`.

Needs the extra `train` and the embedded models' wheels. A part that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from parts import PARTS

import foresighted


def _some(text: str) -> slice:
    """Return which of a part's seeds a text names: 4, or 4:8."""
    return slice(*map(int, text.split(":")))


def main() -> None:
    """Play what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of all parts")
    parser.add_argument("--folder", type=Path, help="of this part, where it is another than OUT/PART")
    parser.add_argument("--arms", help="only these of its arms, with commas; the others may follow later")
    parser.add_argument("--seeds", type=_some, help="only its first so many seeds, or 4:8 for those that follow")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--checkpoint-every", type=int, default=1, help="rounds; what is played between two is lost")
    args = parser.parse_args()
    part = PARTS[args.part]
    arguments = part.arguments() | {"device": args.device, "checkpoint_every": args.checkpoint_every}
    if args.arms:
        asked = args.arms.split(",")
        if unknown := [arm for arm in asked if arm not in part.arms]:
            parser.error(f"--arms: {args.part} has no {unknown[0]}; it has {', '.join(part.arms)}")
        arguments["arms"] = [arm for arm in part.arms if arm in asked]
    if args.seeds:
        arguments["seeds"] = list(part.seeds[args.seeds])
    out = args.folder or args.out / args.part
    foresighted.compare(out=out, resume=out.exists(), progress=True, **arguments)


if __name__ == "__main__":
    main()
