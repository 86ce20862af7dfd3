"""Fill a hole of a picture through the OpenAI SDK, as its users call /v1/images/edits.

    python -m tests.edit_picture http://127.0.0.1:8000 inpainter photograph.png samples/filled.png

The hole is a box and a stroke in the middle; `MASK.png`, transparent there, is written beside it.
"""

import base64
import io
import sys
from pathlib import Path

import openai
from PIL import Image, ImageDraw

from aigc import files


def mask_of(picture: Image.Image) -> Image.Image:
    """White where the picture stays, transparent in a box and along a stroke."""
    width, height = picture.size
    mask = Image.new("RGBA", picture.size, "white")
    draw = ImageDraw.Draw(mask)
    left, top = width * 3 // 5, height // 3
    draw.rectangle((left, top, left + width // 16, top + height // 12), fill=(0, 0, 0, 0))
    stroke = (width // 8, height // 5, width // 2, height * 3 // 5)
    draw.line(stroke, fill=(0, 0, 0, 0), width=max(4, height // 64))
    return mask


def main(url: str, model: str, source: Path, target: Path) -> None:
    """Write what the model makes of the picture with its hole. Raises openai.APIError."""
    mask = io.BytesIO()
    mask_of(Image.open(source)).save(mask, "png")
    files.write(target.with_name("mask.png"), mask.getvalue())
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120)
    edited = client.images.edit(
        model=model,
        image=("image.png", source.read_bytes(), "image/png"),
        mask=("mask.png", mask.getvalue(), "image/png"),
        prompt="",
    )
    assert edited.data is not None
    files.write(target, base64.b64decode(edited.data[0].b64_json or ""))
    print(f"wrote {target}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
