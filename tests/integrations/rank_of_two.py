"""One of two ranks that train with transformers: `torchrun ... rank_of_two.py CONFIG OUTPUT`."""

from __future__ import annotations

import sys
from pathlib import Path

from megascale.config import load_config
from tests.integrations.hf_scene import make_trainer


def main() -> None:
    """Train to the end and leave with the trainer's exit code."""
    trainer = make_trainer(load_config(sys.argv[1]), Path(sys.argv[2]), ranks=2)
    trainer.train()
    sys.exit(trainer.exit_code)


if __name__ == "__main__":
    main()
