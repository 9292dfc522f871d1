"""Creates the two test models in a running Ollama, over its API, from unpacked wheels: URL FOLDER."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

# SmolLM2's own chat format.
CHAT_TEMPLATE = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
# Two files are called config.json: each keeps its path below the model's folder.
MINILM_FILES = (
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "model.safetensors",
)


def call(url: str, data: bytes | None, method: str) -> list[dict[str, object]]:
    """The JSON lines of an answer. Raises RuntimeError for an error among them."""
    request = urllib.request.Request(url, data, method=method)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=600) as response:  # noqa: S310
        lines = [json.loads(line) for line in response if line.strip()]
    for line in lines:
        if "error" in line:
            raise RuntimeError(line["error"])
    return lines


def upload(base: str, file: Path) -> str:
    """Puts a file where Ollama keeps blobs; returns its digest."""
    data = file.read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    call(f"{base}/api/blobs/{digest}", data, "POST")
    return digest


def create(base: str, name: str, files: dict[str, Path], **more: object) -> None:
    """Creates one model of files."""
    body = {"model": name, "files": {path: upload(base, file) for path, file in files.items()}, "stream": True, **more}
    call(f"{base}/api/create", json.dumps(body).encode(), "POST")


def main() -> None:
    """Waits for Ollama, creates both, and looks at what came out."""
    base, folder = sys.argv[1], Path(sys.argv[2])
    for _ in range(100):
        try:
            call(f"{base}/api/version", None, "GET")
            break
        except OSError:
            time.sleep(0.1)
    gguf = next(folder.rglob("*.gguf"))
    parameters = {"stop": ["<|im_start|>", "<|im_end|>"]}
    create(base, "smollm2:135m", {gguf.name: gguf}, template=CHAT_TEMPLATE, parameters=parameters)
    minilm = next(folder.rglob("model.safetensors")).parent
    create(base, "all-minilm", {path: minilm / path for path in MINILM_FILES})
    for name, capability in (("smollm2:135m", "completion"), ("all-minilm", "embedding")):
        shown = call(f"{base}/api/show", json.dumps({"model": name}).encode(), "POST")[0]
        if capability not in shown.get("capabilities", []):  # type: ignore[operator]
            raise SystemExit(f"{name} came out with the capabilities {shown.get('capabilities')}")


if __name__ == "__main__":
    main()
