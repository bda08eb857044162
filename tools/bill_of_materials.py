"""What a release holds, as CycloneDX 1.6 in JSON: our own files, and each wheel of others with its hash and licence.

The host plane has no part of others: it is the standard library and what the host has (libbpf, drivers).
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import uuid
import zipfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.metadata import RawMetadata, parse_email
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_OWN = "osremed"


def bill(version: str, parts: Mapping[str, bytes], made_s: int) -> str:
    """Pure: the document, the same for the same parts and time (seconds of the epoch)."""
    whole = Component(
        name=_OWN,
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=_OWN,
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        purl=PackageURL("pypi", None, _OWN, version),
    )
    told = {name: _metadata(data) for name, data in parts.items() if name.endswith(".whl")}
    components = {name: _component(name, version, data, told.get(name)) for name, data in parts.items()}
    digests = "".join(hashlib.sha256(data).hexdigest() for _, data in sorted(parts.items()))
    document = Bom(
        components=components.values(),
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{_OWN}/{version}/{digests}"),
        metadata=BomMetaData(component=whole, timestamp=datetime.fromtimestamp(made_s, timezone.utc)),
    )
    own = [component for name, component in components.items() if _is_own(name)]
    document.register_dependency(whole, own)
    for name, facts in told.items():
        document.register_dependency(components[name], [components[each] for each in _needed(facts, told)])
    return make_outputter(document, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1) + "\n"


def wheels_in(archive: Path) -> dict[str, bytes]:
    """The wheels of others in an archive of the control plane, by file name."""
    with tarfile.open(archive) as tar:
        members = [entry for entry in tar if entry.name.startswith("wheels/") and not _is_own(Path(entry.name).name)]
        return {Path(entry.name).name: file.read() for entry in members if (file := tar.extractfile(entry))}


def _is_own(name: str) -> bool:
    return name.startswith(f"{_OWN}-")


def _metadata(wheel: bytes) -> RawMetadata:
    with zipfile.ZipFile(io.BytesIO(wheel)) as inside:
        named = [name for name in inside.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1]
        return parse_email(inside.read(named[0]))[0]


def _component(name: str, version: str, data: bytes, facts: RawMetadata | None) -> Component:
    """A file of ours, or the package in a wheel."""
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(data).hexdigest())]
    if facts is None:
        said = "GPL-3.0-or-later" if name.endswith(".tar.gz") else "Apache-2.0"
        ours = [LicenseFactory().make_from_string(said)]
        return Component(
            name=name, version=version, type=ComponentType.FILE, bom_ref=name, hashes=hashes, licenses=ours
        )
    purl = PackageURL("pypi", None, canonicalize_name(facts["name"]), facts["version"], {"file_name": name})
    licence = _licence(facts)
    return Component(
        name=facts["name"],
        version=facts["version"],
        bom_ref=name,
        hashes=hashes,
        purl=purl,
        licenses=[licence] if licence else [],
    )


def _licence(facts: RawMetadata) -> License | None:
    """What a package says of itself, best first; none if it says nothing that fits a line."""
    classifiers = [each for each in facts.get("classifiers", []) if each.startswith("License")]
    classified = [each.rpartition(" :: ")[2] for each in classifiers]
    for said in (facts.get("license_expression"), facts.get("license"), *classified):
        if said and "\n" not in said and len(said) < 100 and said != "UNKNOWN":
            return LicenseFactory().make_from_string(said)
    return None


def _needed(facts: RawMetadata, told: Mapping[str, RawMetadata]) -> list[str]:
    """File names of the wheels that a package asks for and that are here."""
    named = {canonicalize_name(each["name"]): name for name, each in told.items()}
    extras = ("control",) if facts["name"] == _OWN else ("",)
    wanted = [Requirement(each) for each in facts.get("requires_dist", [])]
    fits = [
        each for each in wanted if not each.marker or any(each.marker.evaluate({"extra": extra}) for extra in extras)
    ]
    return sorted({named[key] for each in fits if (key := canonicalize_name(each.name)) in named})
