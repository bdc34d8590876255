"""PaddleX: its client of PaddleOCR-VL with backends fastdeploy-server and vllm-server, 200 crops at once."""

from __future__ import annotations

from pathlib import Path

from paddlex import create_model
from paddlex.inference.models.common.genai import GenAIClient
from PIL import Image, ImageDraw

URL = "http://127.0.0.1:8188/v1"
TASKS = ["OCR:", "Table Recognition:", "Formula Recognition:", "Chart Recognition:", "Seal Recognition:"]


def crop(number: int) -> str:
    """Return the path of a picture, as small as a formula's or as large as a paragraph."""
    picture = Image.new("RGB", (3 + 7 * (number % 29), 3 + 5 * (number % 13)), "white")
    ImageDraw.Draw(picture).text((2, 2), str(number), fill="black")
    path = Path(f"crop-{number}.png")
    picture.save(path)
    return str(path)


crops = [{"image": crop(number), "query": TASKS[number % len(TASKS)]} for number in range(200)]
for backend in ("fastdeploy-server", "vllm-server"):
    model = create_model(
        model_name="PaddleOCR-VL-0.9B",
        genai_config={"backend": backend, "server_url": URL, "max_concurrency": 200},
        batch_size=-1,
    )
    answers = list(model.predict(crops, max_new_tokens=16, skip_special_tokens=True))
    print(f"{backend}: {sum(isinstance(answer['result'], str) for answer in answers)} answers")

    page = {"image": crop(28), "query": "Spotting:"}
    options = {"skip_special_tokens": False, "repetition_penalty": 1.1, "max_new_tokens": 8192}
    if backend == "vllm-server":
        options |= {"min_pixels": 112896, "max_pixels": 1605632}
    (spotted,) = model.predict(page, **options)
    print(f"{backend}: spotted", type(spotted["result"]).__name__)
    model.close()

client = GenAIClient("fastdeploy-server", URL)
print("model:", client._model_name)
client.close()
