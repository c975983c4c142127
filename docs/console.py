"""The picture of the console in the README, from a running `PADREC_WORKER__SPECULATION=on padrec demo`.

python docs/console.py docs/console.png [--url http://127.0.0.1:8000] [--user user-00000]
"""

import argparse
import shutil
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright


def main() -> None:
    """Take it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--user", default="user-00000")
    given = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.goto(f"{given.url}/console?user={given.user}&beam=1&n=5")
        expect(page.locator("#beam-note")).to_contain_text("in both", timeout=60_000)
        for rejected in page.locator("details.rejected-paths").all()[:1]:
            rejected.locator("summary").click()
        picture = page.screenshot(full_page=True)
        browser.close()
    Image.open(BytesIO(picture)).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
        given.out, optimize=True
    )


if __name__ == "__main__":
    main()
