"""Content Credentials (C2PA): a signed note inside each picture that says a model made it, and which.

Unlike the record in a PNG's text entries, the signature breaks when the picture or the note is changed.
"""

from __future__ import annotations

import json
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen._version import __version__
from deepgen.extras import missing_extra

# What a certificate's key may sign with; which one it is shows when the first signature succeeds.
_ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")
_SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


class ContentCredentials:
    """Signs pictures with a certificate.

    Args:
        certificate: a PEM file with the signer's certificate first and those that vouch for it after.
        private_key: its key, PEM (PKCS #8) without a password.
        model_name: what is said to have made the picture.

    Raises:
        ImportError: the `c2pa` extra is missing.
        ValueError: the files do not make a signer; a picture is signed at once to know.
    """

    def __init__(self, certificate: Path, private_key: Path, model_name: str) -> None:
        try:
            import c2pa  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError as error:
            raise missing_extra("signing needs c2pa-python", "c2pa", error) from error
        self._c2pa, self._model = c2pa, model_name
        self._chain, self._key = certificate.read_bytes(), private_key.read_bytes()
        self._lock = threading.Lock()  # the native signer is not said to be safe to share
        buffer = BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        refusals: list[str] = []
        for algorithm in _ALGORITHMS:
            try:
                self._signer = self._make_signer(algorithm)
                self.sign(buffer.getvalue(), "png", is_edit=False)
                return
            except c2pa.C2paError as error:
                refusals.append(f"{algorithm}: {error}")
        raise ValueError(
            f"{certificate} and {private_key} sign with none of the algorithms ({'; '.join(refusals)}); C2PA "
            "wants an end-entity certificate for document signing or e-mail, vouched for by another"
        )

    def sign(self, content: bytes, output_format: str, *, is_edit: bool) -> bytes:
        """The file (`png`, `jpeg` or `webp`) with a signed manifest in it."""
        kind = "compositeWithTrainedAlgorithmicMedia" if is_edit else "trainedAlgorithmicMedia"
        agent = {"name": "deepgen", "version": __version__}
        action = {"action": "c2pa.created", "digitalSourceType": _SOURCES + kind, "softwareAgent": agent}
        action["parameters"] = {"model": self._model}
        manifest = {
            "claim_generator_info": [agent],
            "title": f"picture.{output_format}",
            "format": f"image/{output_format}",
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        signed = BytesIO()
        with self._lock, self._c2pa.Builder(json.dumps(manifest)) as builder:
            builder.sign(self._signer, f"image/{output_format}", BytesIO(content), signed)
        return signed.getvalue()

    def _make_signer(self, algorithm: str) -> Any:
        info = self._c2pa.C2paSignerInfo(algorithm, self._chain, self._key, None)
        return self._c2pa.Signer.from_info(info)
