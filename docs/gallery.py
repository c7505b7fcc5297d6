"""Run the code of pages as it is printed, and keep the pictures that the pages show.

    python docs/gallery.py docs/tutorials/*.md docs/gallery/*.md

The blocks of Python and of bash of a page run in their order, in an empty folder. Blocks of other languages are only
shown, and a page without code only shows the pictures of others. The tests run the same scripts with fewer rows and
steps.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[[^]]*\]\(\.\./pictures/([\w.-]+)\)")
PICTURES = Path(__file__).resolve().parent / "pictures"
START = '''
import os
import shlex
import subprocess
import sys

from ndm.cli import main

os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]


def commands(text):
    """Run each line of a block of bash; those of ndm in this process, which has everything imported."""
    for line in text.replace("\\\\\\n", " ").splitlines():
        if line.startswith("ndm "):
            assert main(shlex.split(line, comments=True)[1:]) == 0, line
        elif line:
            subprocess.run(line, shell=True, check=True)

'''


def script(page: str) -> str:
    """The Python program of a page, which is Markdown."""
    parts = [code if language == "python" else f"commands({code!r})\n" for language, code in BLOCK.findall(page)]
    return START + "\n".join(parts)


def pictures(page: str) -> list[str]:
    """The names of the built pictures that a page shows."""
    return PICTURE.findall(page)


def render(path: Path) -> None:
    """Run a page in an empty folder and copy the pictures that it shows."""
    page = path.read_text(encoding="utf-8")
    if not BLOCK.search(page):
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "page.py"
        program.write_text(script(page), encoding="utf-8")
        subprocess.run([sys.executable, program.name], cwd=folder, check=True)
        for name in pictures(page):
            with Image.open(Path(folder) / name) as picture:  # 64 colours make a file a third as large
                picture.convert("RGB").quantize(64).save(PICTURES / name, optimize=True)


if __name__ == "__main__":
    for page in sys.argv[1:]:
        print(f"{page}:", flush=True)
        render(Path(page))
