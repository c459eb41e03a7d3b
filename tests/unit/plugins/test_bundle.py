# SPDX-License-Identifier: GPL-3.0-or-later
"""An air-gap bundle: what is in it, what it says of it, and what is refused."""

import contextlib
import datetime
import gzip
import hashlib
import inspect
import io
import json
import sqlite3
import struct
import sys
import tarfile
import zipfile

import pytest
from ansible_collections.campaign.platform.plugins.module_utils import bundle_archive, packages, saved_images
from ansible_collections.campaign.platform.plugins.module_utils.bundle_archive import BundleError
from ansible_collections.campaign.platform.plugins.module_utils.sbom import Image, sbom
from ansible_collections.campaign.platform.plugins.modules.bundle import common_platform, repack, without_digest
from ansible_collections.campaign.platform.plugins.plugin_utils import bundle as bundles
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

STATUS = b"""Package: libc6
Status: install ok installed
Version: 2.41-12
Architecture: amd64

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: amd64
"""
COPYRIGHT = b"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: LGPL-2.1+\n text\n"
BUILD_INFO = "path\tgithub.com/minio/minio\nmod\tgithub.com/minio/minio\tv0.1.0\th1:x=\ndep\tgithub.com/a/b\tv1.0.0\n=>\tgithub.com/c/d\tv2.0.0\th1:y=\n"


def varint(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def go_program(info: str = BUILD_INFO, flags: int = 2) -> bytes:
    modules = b"0" * 16 + info.encode() + b"1" * 16
    header = b"\xff Go buildinf:" + bytes([8, flags]) + bytes(16)
    return b"\x7fELF" + bytes(60) + header + varint(8) + b"go1.24.4" + varint(len(modules)) + modules + bytes(1 << 20)


def tar(entries: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in entries.items():
            archive.addfile(bundle_archive.member_info(name, len(content)), io.BytesIO(content))
    return target.getvalue()


DEBIAN = {"var/lib/dpkg/status": STATUS, "etc/os-release": b'ID=debian\nVERSION_ID="13"\n', "usr/share/doc/libc6/copyright": COPYRIGHT}
LAYERS = [
    tar(
        {
            "var/lib/dpkg/status": STATUS,
            "etc/os-release": b'ID=debian\nVERSION_ID="13"\n',
            "usr/share/doc/libc6/copyright": COPYRIGHT,
            "usr/bin/old": go_program(),
        }
    ),
    tar({"usr/bin/minio": go_program(), "usr/bin/.wh.old": b""}),
]
DIFF_IDS = [hashlib.sha256(layer).hexdigest() for layer in LAYERS]
CONFIG = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in DIFF_IDS]}}).encode()
IMAGE_ID = "sha256:" + hashlib.sha256(CONFIG).hexdigest()


def saved(layers=LAYERS, kind="legacy") -> io.BytesIO:
    """What docker save writes, of the Engine's first format and of the one of 25 and later."""
    config = IMAGE_ID.removeprefix("sha256:")
    if kind == "legacy":
        names, config_name = [f"layer{number}/layer.tar" for number in range(len(layers))], f"{config}.json"
        extra = {"layer0/VERSION": b"1.0", "layer0/json": b"{}"}
    else:
        names, config_name = [f"blobs/sha256/{hashlib.sha256(layer).hexdigest()}" for layer in layers], f"blobs/sha256/{config}"
        extra = {"index.json": b"{}", "oci-layout": b"{}"}
    listing = json.dumps([{"Config": config_name, "RepoTags": None, "Layers": names}]).encode()
    return io.BytesIO(tar({**extra, **dict(zip(names, layers, strict=True)), config_name: CONFIG, "manifest.json": listing}))


@pytest.mark.parametrize("kind", ["legacy", "oci"])
def test_a_saved_image_is_taken_apart_by_digest(tmp_path, kind):
    images, layers = saved_images.take_apart(saved(kind=kind), str(tmp_path))
    assert images[IMAGE_ID].layers == DIFF_IDS
    assert (tmp_path / f"{IMAGE_ID[7:]}.json").read_bytes() == CONFIG
    assert {path.name for path in tmp_path.iterdir()} == {f"{IMAGE_ID[7:]}.json", *(f"{digest}.tar.gz" for digest in DIFF_IDS)}
    for digest, layer in zip(DIFF_IDS, LAYERS, strict=True):
        assert gzip.decompress((tmp_path / f"{digest}.tar.gz").read_bytes()) == layer
    held = saved_images.merged(images[IMAGE_ID], layers)
    assert held.size == sum(map(len, LAYERS))
    assert list(held.programs) == ["usr/bin/minio"]


def test_a_saved_image_without_one_of_its_layers_is_refused(tmp_path):
    with pytest.raises(BundleError, match="without its layer"):
        saved_images.take_apart(saved(LAYERS[:1]), str(tmp_path))


def test_debian_packages_are_read_with_their_licences():
    (package,) = packages.debian_packages(DEBIAN)
    assert (package.name, package.version, package.licences) == ("libc6", "2.41-12", ("LGPL-2.1+",))
    assert package.qualifiers == (("arch", "amd64"), ("distro", "debian-13"))


def test_go_modules_are_read_from_a_program():
    found = packages.go_packages(saved_images.go_build_info(go_program()))
    assert {(package.namespace, package.name, package.version) for package in found} == {
        (None, "std", "1.24.4"),
        ("github.com/minio", "minio", "v0.1.0"),
        ("github.com/c", "d", "v2.0.0"),
    }


@pytest.mark.parametrize("content", [b"\x7fELF" + bytes(100), go_program(flags=0)])
def test_other_programs_have_no_build_information(content):
    assert saved_images.go_build_info(content) is None


def rpm_database(directory, *packages: dict) -> bytes:
    """What RPM keeps of the packages that it installed: a table of headers, in a file that says that its log is beside it."""
    path = directory / "rpmdb.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
        for package in packages:
            entries, data = b"", b""
            for tag, value in package.items():
                data += b"\0" * (-len(data) % 4)
                entries += struct.pack(">4I", tag, 4 if isinstance(value, int) else 6, len(data), 1)
                data += struct.pack(">I", value) if isinstance(value, int) else value.encode() + b"\0"
            database.execute("INSERT INTO Packages (blob) VALUES (?)", [struct.pack(">2I", len(package), len(data)) + entries + data])
        database.commit()
    content = path.read_bytes()
    return content[:18] + b"\2\2" + content[20:]


def test_rpm_packages_are_read_with_their_licences(tmp_path):
    bash = {1000: "bash", 1001: "5.1.8", 1002: "9.el9", 1014: "GPLv3+", 1022: "x86_64", 5000: "of no interest"}
    ncurses = {1000: "ncurses", 1001: "6.2", 1002: "1", 1003: 2, 1022: "noarch"}
    key = {1000: "gpg-pubkey", 1001: "1", 1002: "2"}
    content = rpm_database(tmp_path, ncurses, bash, key)
    files = {"var/lib/rpm/rpmdb.sqlite": content, "etc/os-release": b'ID="rhel"\nVERSION_ID="9.6"\n'}
    qualifiers = (("arch", "x86_64"), ("distro", "rhel-9.6"))
    assert packages.rpm_packages(files) == [
        packages.Package("rpm", "bash", "5.1.8-9.el9", "redhat", qualifiers, ("GPLv3+",)),
        packages.Package("rpm", "ncurses", "6.2-1", "redhat", (("arch", "noarch"), ("distro", "rhel-9.6"), ("epoch", "2"))),
    ]
    assert packages.debian_packages(files) == packages.rpm_packages({}) == []
    # Wherever a distribution keeps it.
    paths = {f"{directory}/rpm/rpmdb.sqlite" for directory in ("var/lib", "usr/lib/sysimage")}
    assert set(saved_images.read_layer(io.BytesIO(tar(dict.fromkeys(paths, content)))).files) == paths


def test_node_packages_are_the_production_closure_from_the_nearest_directory():
    lock = {
        "packages": {
            "packages/api": {"dependencies": {"a": "1", "@campaign/shared": "1"}, "devDependencies": {"d": "1"}},
            "packages/shared": {"dependencies": {"@s/b": "1"}},
            "node_modules/@campaign/shared": {"resolved": "packages/shared", "link": True},
            "node_modules/a": {"version": "1.0.0", "license": "MIT", "dependencies": {"c": "1"}},
            "node_modules/a/node_modules/c": {"version": "1.0.0", "dependencies": {"@s/b": "2"}},
            "node_modules/c": {"version": "2.0.0"},
            "node_modules/@s/b": {"version": "3.0.0", "optionalDependencies": {"absent": "1", "e": "1"}, "license": "ISC"},
            "node_modules/e": {"version": "5.0.0", "optional": True, "peerDependencies": {"f": "1"}},
            "node_modules/f": {"version": "6.0.0"},
            "node_modules/d": {"version": "4.0.0", "dev": True},
        }
    }
    assert packages.node_packages(lock, "api") == [
        packages.Package("npm", "a", "1.0.0", licences=("MIT",)),
        packages.Package("npm", "c", "1.0.0"),
        packages.Package("npm", "e", "5.0.0"),
        packages.Package("npm", "f", "6.0.0"),
        packages.Package("npm", "b", "3.0.0", "@s", licences=("ISC",)),
    ]


@pytest.mark.parametrize(
    ("metadata", "licences"),
    [
        ("License-Expression: MIT\n", ("MIT",)),
        ("License: BSD\nClassifier: License :: OSI Approved :: BSD License\n", ("BSD",)),
        ("Classifier: License :: OSI Approved :: MIT License\n", ("MIT License",)),
        ("License: UNKNOWN\n", ()),
        # A line at most: what is longer is the licence's own text.
        (f"License: {'x' * 80}\n", ("x" * 80,)),
        (f"License: {'x' * 81}\n", ()),
    ],
)
def test_a_wheel_says_what_it_is(tmp_path, metadata, licences):
    path = tmp_path / "a_b-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("a_b-1.0.dist-info/METADATA", f"Metadata-Version: 2.4\nName: a.b\nVersion: 1.0\n{metadata}\n")
        wheel.writestr("a_b/_vendor/c-2.dist-info/METADATA", "Name: c\nVersion: 2\n")
    assert packages.wheel_package(str(path), "0" * 64) == packages.Package(
        "pypi", "a-b", "1.0", qualifiers=(("file_name", path.name),), licences=licences, sha256="0" * 64
    )


def bill() -> str:
    deb = packages.debian_packages({"var/lib/dpkg/status": STATUS, "usr/share/doc/libc6/copyright": COPYRIGHT})
    go = packages.go_packages(saved_images.go_build_info(go_program()))
    npm = [packages.Package("npm", "core", "12.5.1", "@nestjs", licences=("MIT",))]
    pypi = [packages.Package("pypi", "ansible", "14.5.0", licences=("GPL-3.0-or-later",), sha256="0" * 64)]
    odd = [packages.Package("deb", "odd", "1:2", "debian", licences=("GPL-2+", "MIT or so", "Expat"))]
    images = [Image("minio", "campaign/minio:1", IMAGE_ID, tuple(deb + go + odd)), Image("api", "campaign/api:2", IMAGE_ID, tuple(deb + npm))]
    return sbom("0.1.0", datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC), images, pypi)


def test_the_bill_of_materials_is_valid_and_complete():
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill()) is None
    read = json.loads(bill())
    purls = {component.get("purl") for component in read["components"]}
    assert {"pkg:npm/%40nestjs/core@12.5.1", "pkg:golang/github.com/minio/minio@v0.1.0", "pkg:pypi/ansible@14.5.0"} <= purls
    assert any(purl and purl.startswith("pkg:deb/debian/libc6@2.41-12?") for purl in purls)
    depends = {entry["ref"]: set(entry.get("dependsOn", [])) for entry in read["dependencies"]}
    assert {"image:api", "image:minio", "pkg:pypi/ansible@14.5.0"} == depends["campaign.platform"]
    assert "pkg:npm/%40nestjs/core@12.5.1" in depends["image:api"] - depends["image:minio"]
    assert read["serialNumber"].startswith("urn:uuid:")
    (container,) = [component for component in read["components"] if component["bom-ref"] == "image:api"]
    assert container == {
        "bom-ref": "image:api",
        "name": "campaign/api",
        "version": "2",
        "type": "container",
        "properties": [{"name": "campaign.platform:image_id", "value": IMAGE_ID}],
    }


def test_it_is_known_that_the_library_of_the_bill_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cyclonedx.model", None)
    again = {"__name__": sbom.__module__}
    exec(inspect.getsource(sys.modules[sbom.__module__]), again)
    assert again["HAS_CYCLONEDX"] is False


def test_the_same_contents_give_the_same_bill():
    assert bill() == bill()


@pytest.fixture
def bundle(tmp_path):
    """A whole bundle with one image."""
    staging = tmp_path / "staging"
    (staging / "images").mkdir(parents=True)
    (staging / "wheels").mkdir()
    saved_images.take_apart(saved(), str(staging / "images"))
    (staging / "wheels/a-1-py3-none-any.whl").write_bytes(b"wheel")
    sizes = {digest: {"size": 1, "packed": 1} for digest in DIFF_IDS}
    image = {"reference": "campaign/minio:1", "id": IMAGE_ID, "layers": DIFF_IDS}
    (staging / "manifest.json").write_text(json.dumps({"format": 1, "platform": "linux/amd64", "images": {"minio": image}, "layers": sizes}))
    path = tmp_path / "campaign-platform-0.1.0-linux-amd64.tar"
    bundle_archive.write_bundle(str(staging), str(path))
    return path


def rewrite(path, change):
    """Write a bundle again with other members, its own checksum right again."""
    with tarfile.open(path) as archive:
        entries = {info.name: archive.extractfile(info).read() for info in archive}
    change(entries)
    path.write_bytes(tar(entries))
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


PREFIX = "campaign-platform-0.1.0-linux-amd64"


def test_a_bundle_is_whole_and_can_be_loaded(bundle, tmp_path):
    bundle_archive.verify(str(bundle))
    target = tmp_path / "images.tar"
    bundle_archive.write_docker_archive(str(bundle), ["minio"], str(target))
    with tarfile.open(target) as archive:
        (entry,) = json.load(archive.extractfile("manifest.json"))
        assert entry["RepoTags"] == ["campaign/minio:1"]
        assert archive.extractfile(entry["Config"]).read() == CONFIG
        assert [gzip.decompress(archive.extractfile(name).read()) for name in entry["Layers"]] == LAYERS
    contents = bundles.read(str(bundle))
    assert contents.platform == "linux/amd64"
    (minio,) = contents.images.values()
    assert (minio["key"], minio["id"], minio["how"], minio["parents"]) == ("minio", IMAGE_ID, "load", [])
    assert set(minio["layers"]) == set(contents.layers)


def test_the_same_contents_give_the_same_archive(bundle, tmp_path):
    first = bundle.read_bytes()
    assert bundle_archive.write_bundle(str(tmp_path / "staging"), str(bundle)) == hashlib.sha256(first).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries.update({f"{PREFIX}/wheels/a-1-py3-none-any.whl": b"other"}), "wheels/a-1-py3-none-any.whl has another checksum"),
        (lambda entries: entries.pop(f"{PREFIX}/wheels/a-1-py3-none-any.whl"), "wheels/a-1-py3-none-any.whl is missing"),
        (lambda entries: entries.update({f"{PREFIX}/wheels/b-1-py3-none-any.whl": b""}), "is not among the checksums"),
        (lambda entries: entries.update({f"{PREFIX}/../../etc/passwd": b""}), "no place in a bundle"),
        (lambda entries: entries.update({f"{PREFIX}/wheels/../../x.whl": b""}), "no place in a bundle"),
        (lambda entries: entries.update({"/etc/passwd": b""}), "no place in a bundle"),
        (lambda entries: entries.update({f"../{PREFIX}/README.md": b""}), "no place in a bundle"),
        (lambda entries: entries.update({f"{PREFIX}/SHA256SUMS": b"nonsense"}), "SHA256SUMS is damaged"),
    ],
)
def test_what_does_not_belong_into_a_bundle_is_refused(bundle, change, message):
    rewrite(bundle, change)
    with pytest.raises(BundleError, match=message):
        bundle_archive.verify(str(bundle))


def test_a_link_in_a_bundle_is_refused(bundle):
    with tarfile.open(bundle, "a") as archive:
        link = tarfile.TarInfo(f"{PREFIX}/README.md")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(BundleError, match="no place in a bundle"):
        bundle_archive.verify(str(bundle))


def test_another_archive_checksum_is_refused(bundle):
    bundle.with_name(f"{bundle.name}.sha256").write_text("0" * 64)
    with pytest.raises(BundleError, match=r"another checksum than .*\.sha256 says"):
        bundle_archive.verify(str(bundle))
    bundle.with_name(f"{bundle.name}.sha256").unlink()
    with pytest.raises(BundleError, match="belongs beside the bundle"):
        bundle_archive.verify(str(bundle))


def test_a_refused_bundle_leaves_nothing(bundle, tmp_path):
    before = set(tmp_path.iterdir())
    rewrite(bundle, lambda entries: entries.update({f"{PREFIX}/wheels/a-1-py3-none-any.whl": b"other"}))
    with pytest.raises(BundleError):
        bundle_archive.write_docker_archive(str(bundle), ["minio"], str(tmp_path / "images.tar"))
    assert set(tmp_path.iterdir()) == before


def test_an_image_that_is_not_in_the_bundle_is_named(bundle, tmp_path):
    with pytest.raises(BundleError, match="no image for redis"):
        bundle_archive.write_docker_archive(str(bundle), ["minio", "redis"], str(tmp_path / "images.tar"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there"),
        (b"", "is not a bundle, or it is broken"),
        (b"no archive at all" * 100, "is not a bundle, or it is broken"),
        (tar({"x/file": b""}), "no place in a bundle|not a bundle of this collection"),
    ],
)
def test_what_is_not_a_bundle_is_refused(tmp_path, content, message):
    path = tmp_path / "x.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=message):
        bundles.read(str(path))


def test_a_bundle_that_was_cut_off_is_refused(bundle):
    bundle.write_bytes(bundle.read_bytes()[: bundle.stat().st_size // 2])
    with pytest.raises(BundleError, match=r"broken|checksum"):
        bundle_archive.verify(str(bundle))


def test_a_changed_manifest_is_refused(bundle):
    rewrite(bundle, lambda entries: entries.update({f"{PREFIX}/manifest.json": b"{}"}))
    with pytest.raises(BundleError, match=r"manifest\.json has another checksum"):
        bundles.read(str(bundle))


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail():
        with bundle_archive.written_whole(str(path)) as file:
            file.write(b"new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


@pytest.mark.parametrize(
    ("images", "mebibytes"),
    [([], 0), ([["a"]], 3), ([["a"], ["a"]], 3), ([["a", "b"], ["b", "c"]], 3 + 30 + 0), ([["c"]], 0)],
)
def test_a_layer_takes_disk_once_packed_and_once_unpacked(images, mebibytes):
    layers = {"a": {"size": 2 << 20, "packed": 1 << 20}, "b": {"size": 20 << 20, "packed": 10 << 20}, "c": {"size": 1, "packed": 1}}
    assert bundles.needed_mb([{"layers": image} for image in images], layers) == mebibytes


def test_too_little_disk_is_reported_before(tmp_path):
    with pytest.raises(BundleError, match="MiB are needed"):
        bundle_archive.check_space(str(tmp_path), 1 << 60)


@pytest.mark.parametrize(
    ("reference", "tag"),
    [("a/b:1@sha256:" + "0" * 64, "a/b:1"), ("host:5000/a", "host:5000/a:latest"), ("a/b:1", "a/b:1")],
)
def test_a_bundle_names_images_by_tag(reference, tag):
    assert without_digest(reference) == tag


def test_a_bundle_is_for_one_platform():
    images = {"a": {"Os": "linux", "Architecture": "amd64"}, "b": {"Os": "linux", "Architecture": "arm64"}}
    with pytest.raises(BundleError, match="different platforms: linux/amd64, linux/arm64"):
        common_platform(images)


def test_a_collection_built_twice_gives_the_same_bytes(tmp_path):
    for number in (1, 2):
        with tarfile.open(tmp_path / f"{number}.tar.gz", "w:gz") as archive:
            info = bundle_archive.member_info("MANIFEST.json", 2)
            info.mtime = number
            archive.addfile(info, io.BytesIO(b"{}"))
        repack(str(tmp_path / f"{number}.tar.gz"), str(tmp_path / f"{number}.packed"))
    assert (tmp_path / "1.packed").read_bytes() == (tmp_path / "2.packed").read_bytes()
