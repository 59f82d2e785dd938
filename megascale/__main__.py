"""`python -m megascale`: the form that torchrun starts (`torchrun -m megascale train ...`)."""

from megascale.cli import main

if __name__ == "__main__":
    main()
