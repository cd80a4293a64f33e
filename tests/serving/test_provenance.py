"""Content Credentials: signed with a certificate made here, read back by the reference library."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepgen.cli import loading, main
from deepgen.data.png import read_record
from deepgen.serving.app import make_app
from deepgen.serving.config import ServeConfig
from deepgen.serving.engine import Engine
from deepgen.serving.provenance import ContentCredentials

c2pa = pytest.importorskip("c2pa")
x509 = pytest.importorskip("cryptography.x509")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: E402


def certificate(subject: str, key: Any, issuer: Any = None, signing_key: Any = None) -> Any:
    """Signed by `issuer`, or for an authority by itself."""
    name = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, subject),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "deepgen tests"),
        ]
    )
    now = datetime.datetime.now(datetime.UTC)
    is_authority = issuer is None
    signing_key = signing_key or key
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"),
        False,
    )
    usage |= {"decipher_only": False, "crl_sign": is_authority, "key_cert_sign": is_authority}
    builder = (
        x509.CertificateBuilder(name if is_authority else issuer.subject, name, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not is_authority, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False
        )
    )
    if not is_authority:
        purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    algorithm = None if isinstance(signing_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signing_key, algorithm)


def signer_files(folder: Path, key: Any) -> tuple[Path, Path]:
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = certificate("a test authority", authority_key)
    own = certificate("a test signer", key, authority, authority_key)
    pem = serialization.Encoding.PEM
    (folder / "chain.pem").write_bytes(own.public_bytes(pem) + authority.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder / "chain.pem", folder / "key.pem"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return signer_files(tmp_path, ec.generate_private_key(ec.SECP256R1()))


def read(content: bytes, kind: str) -> tuple[dict[str, Any], set[str]]:
    """The manifest, and what is wrong with it, the unknown authority left aside."""
    with c2pa.Reader(f"image/{kind}", io.BytesIO(content)) as reader:
        told = json.loads(reader.json())
    wrong = {status["code"] for status in told.get("validation_status", [])}
    return told["manifests"][told["active_manifest"]], wrong - {"signingCredential.untrusted"}


def file_of(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("is_edit", [False, True])
def test_a_signed_file_says_what_made_it_and_looks_the_same(
    files: tuple[Path, Path], kind: str, is_edit: bool
) -> None:
    before = file_of(kind)
    after = ContentCredentials(*files, "a-model").sign(before, kind, is_edit=is_edit)
    manifest, wrong = read(after, kind)
    assert not wrong
    (action,) = next(a for a in manifest["assertions"] if a["label"].startswith("c2pa.actions"))["data"][
        "actions"
    ]
    assert action["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia") is is_edit
    assert action["digitalSourceType"].lower().endswith("trainedalgorithmicmedia")
    assert action["parameters"]["model"] == "a-model"
    assert Image.open(io.BytesIO(after)).tobytes() == Image.open(io.BytesIO(before)).tobytes()


def test_a_changed_picture_is_found_out(files: tuple[Path, Path]) -> None:
    signed = bytearray(ContentCredentials(*files, "m").sign(file_of("jpeg"), "jpeg", is_edit=False))
    signed[-10] ^= 1
    _, wrong = read(bytes(signed), "jpeg")
    assert "assertion.dataHash.mismatch" in wrong


def test_keys_of_another_kind_sign_too(tmp_path: Path) -> None:
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())):
        signed = ContentCredentials(*signer_files(tmp_path, key), "m").sign(
            file_of("png"), "png", is_edit=False
        )
        assert not read(signed, "png")[1]


def test_files_that_make_no_signer_are_refused_at_once(
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    _, wrong_key = signer_files(other, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ValueError, match="none of the algorithms"):
        ContentCredentials(files[0], wrong_key, "m")
    monkeypatch.setattr(loading, "load_pipeline", lambda options: pytest.fail("the model was loaded"))
    for arguments, message in (
        (["--c2pa-certificate", str(files[0])], "both"),
        (["--c2pa-certificate", str(files[0]), "--c2pa-key", str(wrong_key)], "none of the algorithms"),
        (["--c2pa-certificate", "none.pem", "--c2pa-key", str(files[1])], "none.pem"),
    ):
        assert main(["serve", "tiny", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_server_with_a_certificate_signs_what_it_draws_and_keeps_the_record(
    pipe: Any, files: tuple[Path, Path], tmp_path: Path
) -> None:
    from starlette.testclient import TestClient

    credentials = ContentCredentials(*files, "deepgen-1.0")
    with TestClient(make_app(Engine(pipe), ServeConfig(credentials=credentials))) as http:
        answer = http.post("/v1/images/generations", json={"prompt": "a star", "seed": 1})
    from deepgen.client import _images

    (image,) = _images(answer.json())
    assert not read(image.content, "png")[1]
    record = read_record(image.save(tmp_path / "a.png"))
    assert record is not None
    assert record.prompt == "a star"
