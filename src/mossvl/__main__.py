"""`python -m mossvl` is the command `mossvl`."""

from mossvl.cli.main import app

if __name__ == "__main__":
    app()
