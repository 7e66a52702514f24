"""Make the virtual environment that every `make` target runs in.

    python3 scripts/bootstrap.py .venv

Creates the environment when it is missing or broken, installs this package into it (editable, with the `dev`
extra) and checks that torch and torchvision fit each other. The operators are built after that, by make,
against the torch that this brings. It runs before anything is installed, under whatever Python the user has:
standard library only, and nothing that Python 3.6 cannot parse, so that an old Python gets a sentence and not
a SyntaxError.
"""

import os
import subprocess
import sys

OLDEST_PYTHON = (3, 10)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else ".venv"
    python = os.path.join(folder, "bin", "python")
    if not has_pip(python):
        create(folder)
    require_python(python)
    say(f"Installing convbody and what it needs into {folder} (a few minutes the first time).")
    pip_install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    environment = dict(os.environ, CONVBODY_NO_EXTENSION="1")
    if subprocess.call([*pip_install, "--editable", ROOT + "[dev]"], env=environment) != 0:
        stop("pip could not install the requirements; its message is above. The same command tries again.")
    if subprocess.call([python, os.path.join(ROOT, "scripts", "check_torch.py")]) != 0:
        sys.exit(2)


def has_pip(python: str) -> bool:
    """Whether the environment exists, and was not left half made by an interrupted run."""
    command = [python, "-m", "pip", "--version"]
    return os.path.exists(python) and subprocess.call(command, stdout=subprocess.DEVNULL) == 0


def create(folder: str) -> None:
    require_python(sys.executable)
    say(f"Creating {folder} with {sys.executable}.")
    if subprocess.call([sys.executable, "-m", "venv", "--clear", folder]) != 0:
        stop(
            "Python's venv module did not work. On Debian and Ubuntu, `sudo apt-get install python3-venv` "
            "brings it; or choose another Python: `make PYTHON=python3.12 ...`."
        )


def require_python(python: str) -> None:
    output = subprocess.check_output([python, "-c", "import sys; print(*sys.version_info[:2])"])
    version = tuple(int(part) for part in output.split())
    if version < OLDEST_PYTHON:
        wanted, found = (".".join(map(str, numbers)) for numbers in (OLDEST_PYTHON, version))
        stop(
            f"convbody needs Python {wanted} or newer, and {python} is Python {found}. Choose another: "
            "`make PYTHON=python3.12 ...`, after removing an environment that was made with the old one."
        )


def say(sentence: str) -> None:
    print(sentence, flush=True)


def stop(sentence: str) -> None:
    print("error: " + sentence, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
