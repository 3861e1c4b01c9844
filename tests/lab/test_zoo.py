"""What `make zoo` writes is what is committed, and says what configs and mmseg's zoo say."""

import re
from pathlib import Path
from urllib.parse import urlparse

import pytest

yaml = pytest.importorskip("yaml")

from mmseg_tome.lab import zoo  # noqa: E402
from mmseg_tome.lab.reproduce.tables import TABLES  # noqa: E402

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return zoo.files(REPO)


@pytest.fixture(scope="module")
def entries(made) -> list[dict]:
    files = yaml.safe_load(made[zoo.INDEX])["Import"]
    return [entry for file in files for entry in yaml.safe_load(made[file])["Models"]]


def test_what_is_committed_is_what_the_configs_give(made):
    stale = [path for path, text in made.items() if (REPO / path).read_text("utf-8") != text]
    assert stale == [], "run `make zoo`"
    committed = {p.relative_to(REPO).as_posix() for p in (REPO / "configs").rglob("metafile.yml")}
    assert committed == set(made) - {zoo.INDEX, zoo.PAGE}


def test_every_row_of_the_paper_is_listed(entries):
    """With the weights that the authors published for it, and their number."""
    for table in TABLES.values():
        for row, published in table.rows.items():
            config = "configs/" + table.config.format(row=row)
            link = f"{zoo.AUTHORS_FILES}{zoo.AUTHORS[table.name][row]}/"
            found = [e for e in entries if e["Config"] == config and e["Weights"].startswith(link)]
            metrics = [list(e["Results"][0]["Metrics"].values()) for e in found]
            assert list(published.accuracy) in metrics, (table.name, row)


def test_names_are_unique_and_configs_are_there(entries):
    names = [entry["Name"] for entry in entries]
    assert len(set(names)) == len(names)
    assert all((REPO / entry["Config"]).is_file() for entry in entries)
    # A name that is also a config's is that config with the weights that it names itself.
    stems = {path.stem: path for path in (REPO / "configs").rglob("*.py")}
    for entry in entries:
        if entry["Name"] in stems:
            assert REPO / entry["Config"] == stems[entry["Name"]]
            text = "".join(path.read_text() for path in (REPO / "configs").rglob("*_none_*.py"))
            file = urlparse(entry["Weights"]).path
            assert file in re.sub(r'"\s+"', "", text)


def test_every_config_is_listed_or_has_a_reason(entries, made):
    listed = {entry["Config"] for entry in entries}
    files = (REPO / "configs").rglob("*.py")
    paths = [path.relative_to(REPO) for path in files if "_base_" not in path.parts]
    others = [path for path in paths if path.as_posix() not in listed]
    reason = re.compile(r"configs/(camvid|demo|pvt)/|configs/b0/\w+_(coco|jbd).py")
    assert [path for path in others if not reason.match(path.as_posix())] == []
    assert "## Without public weights" in made[zoo.PAGE]


@pytest.mark.parametrize(
    "name",
    ["segformerpp_hq_coco", "b0/segformerpp_b0_fast_ade20k", "demo/segformerpp_hq_demo"],
)
def test_checkpoints_are_read_from_configs_as_mmengine_does(name):
    config = pytest.importorskip("mmengine.config").Config
    path = REPO / "configs" / f"{name}.py"
    assert zoo.load_from(path) == config.fromfile(path, import_custom_modules=False).load_from


def test_collections_are_defined(made):
    for path, text in made.items():
        if path.endswith("metafile.yml"):
            content = yaml.safe_load(text)
            known = {collection["Name"] for collection in content["Collections"]}
            assert {entry["In Collection"] for entry in content["Models"]} == known


def test_links_are_whole(made, entries):
    """None can be opened by a test; each names a host and a file, and `mim` finds a file name."""
    links = [entry["Weights"] for entry in entries]
    links += re.findall(r"\]\((https?:[^)]*)\)", made[zoo.PAGE])
    for link in links:
        parts = urlparse(link)
        assert parts.scheme == "https"
        assert "." in parts.netloc
        assert len(parts.path) > 5
        assert not re.search(r"\s", link)
    assert all(re.fullmatch(r"[\w.-]+\.pth", e["Weights"].split("/")[-1]) for e in entries)


def test_the_page_names_files_that_are_there(made):
    for link in re.findall(r"\]\((?!https?:)([^)]*)\)", made[zoo.PAGE]):
        assert (REPO / "docs" / link).is_file(), link


def test_mmsegs_numbers_are_those_of_its_metafiles(entries):
    """By the name of the checkpoint's file, which all mirrors share."""
    mmseg = pytest.importorskip("mmseg")
    folder = Path(mmseg.__file__).parent / ".mim/configs"
    known = {}
    for name in ("segformer", "twins", "vit"):
        if not (folder / name / "metafile.yaml").is_file():
            pytest.skip("this mmseg was installed without its model zoo's metafiles")
        for model in yaml.safe_load((folder / name / "metafile.yaml").read_text())["Models"]:
            results = model["Results"]
            result = results[0] if isinstance(results, list) else results
            known[Path(urlparse(model["Weights"]).path).name] = result["Metrics"]
    seen = [e for e in entries if e["Metadata"].get("Measured By") == "OpenMMLab"]
    assert len(seen) == 15  # six sizes on two data sets, Twins twice, DeiT
    for entry in seen:
        assert (
            entry["Results"][0]["Metrics"] == known[urlparse(entry["Weights"]).path.split("/")[-1]]
        )


def test_a_number_says_who_measured_it(entries):
    for entry in entries:
        assert bool(entry["Results"][0]["Metrics"]) == ("Measured By" in entry["Metadata"])
        # OpenMMLab measured no merging; the authors measured their own weights alone.
        merges = entry["Metadata"]["Token Merging"] != "none"
        if entry["Metadata"].get("Measured By") == "OpenMMLab":
            assert not merges
        if entry["Metadata"].get("Measured By") == "the authors":
            assert entry["Weights"].startswith(zoo.AUTHORS_FILES)


def test_a_link_that_stands_for_two_models_is_marked(entries):
    marked = [e["Name"] for e in entries if "Note" in e["Metadata"]]
    assert marked == ["segformerpp_fast_ade20k_trained", "segformerpp_fast_jbd_trained"]
