"""Make the picture of the README, after `make demo`: ``python docs/before_after.py -o docs/images/before_after.jpg``.

The sample's shaky virtual camera films a photograph that the demo's network has not seen. The network restores the
clip, and one frame is shown: blurry on the left of the line, restored on the right.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw

from data_prep.sample import SUBFRAMES, camera_path, film
from dstnet_arch import load_checkpoint
from dstnet_arch.metrics.psnr import psnr

WEIGHTS = Path('experiments/train_DSTNet_sample/models/net_g_latest.pth')
TOP = 304  # rows of the photograph: NASA's portrait of Eileen Collins (public domain), `astronaut` in scikit-image
SIZE = (240, 448)  # of the frames; the picture is twice as large
SEED, NUM_FRAMES, BLUR_LENGTH, FRAME = 6, 10, 5.0, 5
GAMMA = 2.2  # of the camera
LINE = 0.418  # place of the line, as a part of the width: through the face


def main() -> None:
    """Restore the clip and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', type=Path, default=WEIGHTS)
    parser.add_argument('-o', '--output', type=Path, required=True)
    args = parser.parse_args()
    path = camera_path(np.random.default_rng(SEED), NUM_FRAMES, BLUR_LENGTH)
    photograph = np.ascontiguousarray(skimage.data.astronaut()[:TOP])
    exposures = np.stack(list(film(photograph, path, SIZE))).reshape(NUM_FRAMES, SUBFRAMES, *SIZE, 3)
    sharp = exposures[:, SUBFRAMES // 2]
    light = ((exposures / 255) ** GAMMA).mean(axis=1)
    blurry = (255 * light ** (1 / GAMMA)).round().astype(np.uint8)
    with torch.no_grad():
        clip = torch.from_numpy(blurry).permute(0, 3, 1, 2)[None] / 255
        restored = load_checkpoint(args.weights)(clip)[0].clamp(0, 1).mul(255).round().byte()
    after = restored.permute(0, 2, 3, 1).numpy()
    scores = (psnr(frames[FRAME], sharp[FRAME]) for frames in (blurry, after))
    print('PSNR of the blurry and the restored frame in dB:', *(f'{score:.2f}' for score in scores))
    split(blurry[FRAME], after[FRAME]).save(args.output, quality=92)


def split(before: np.ndarray, after: np.ndarray) -> Image.Image:
    """Return one picture of two, with a line and a handle between them."""
    middle = round(LINE * before.shape[1])
    picture = Image.fromarray(np.hstack([before[:, :middle], after[:, middle:]]))
    picture = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    x, y = 2 * middle, round(0.82 * picture.height)
    draw.line([(x, 0), (x, picture.height)], fill='white', width=3)
    draw.ellipse([x - 20, y - 20, x + 20, y + 20], fill='white')
    for sign in (-1, 1):
        draw.polygon([(x + 14 * sign, y), (x + 5 * sign, y - 8), (x + 5 * sign, y + 8)], fill='#444444')
    for text, place, anchor in (('blurry', (12, 10), 'la'), ('restored', (picture.width - 12, 10), 'ra')):
        box = draw.textbbox(place, text, font_size=22, anchor=anchor)
        draw.rectangle([box[0] - 8, box[1] - 6, box[2] + 8, box[3] + 6], fill='#000000')
        draw.text(place, text, fill='white', font_size=22, anchor=anchor)
    return picture


if __name__ == '__main__':
    main()
