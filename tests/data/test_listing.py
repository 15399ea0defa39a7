import pytest
from PIL import Image

from finercam.data.listing import ListFile


@pytest.fixture
def root(tmp_path):
    for name in ("a.png", "sub/b c.png", "d,e.png", "f#0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (10, 8)).save(tmp_path / name)
    return tmp_path


def listed(root, content, name="list.csv", **options):
    (root / name).write_text(content, encoding="utf-8")
    return ListFile(root / name, **options)


@pytest.mark.parametrize(
    "name, content",
    [
        ("list.csv", "a.png,wren\nsub/b c.png,robin\nf#0.png,\n"),
        ("list.csv", '\ufeffpath,label\na.png,wren\n\n"sub/b c.png","robin"\nf#0.png\n'),
        ("list.csv", "species,file\nwren,a.png\nrobin,sub/b c.png\n,f#0.png\n"),
        ("list.tsv", "a.png\twren\nsub/b c.png\trobin\nf#0.png\n"),
        ("list.txt", "# a comment\na.png\twren\r\nsub/b c.png\trobin\r\nf#0.png\r\n"),
        ("list.txt", "a.png, wren\nsub/b c.png, robin\nf#0.png\n"),
    ],
)
def test_forms(root, name, content, labels_of):
    data = listed(root, content, name)
    assert data.classes == ["robin", "wren"] and labels_of(data) == [1, 0, None]
    assert [s.id for s in data] == ["a.png", "sub/b c.png", "f#0.png"]
    assert data[1].open().size == (10, 8)


def test_paths_alone_and_quotes(root, labels_of):
    data = listed(root, '"d,e.png"\na.png\n')
    assert [s.id for s in data] == ["d,e.png", "a.png"] and labels_of(data) == [None, None] and data.classes == []


def test_numbers_are_labels(root, labels_of):
    data = listed(root, "a.png,964\nsub/b c.png,-1\nf#0.png,0\n")
    assert labels_of(data) == [964, None, 0] and data.classes == []
    data = listed(root, "a.png,1\n", classes=["wren", "robin"])
    assert labels_of(data) == [1] and data.classes == ["wren", "robin"]


def test_given_classes(root, refused, labels_of):
    (root / "names.txt").write_text("wren\nrobin\nzebra dove\n")
    data = listed(root, "a.png,robin\n", classes=root / "names.txt")
    assert labels_of(data) == [1] and len(data.classes) == 3
    with refused("'robbin'", "'robin'"):
        listed(root, "a.png,robbin\n", classes=root / "names.txt")
    with refused("class 3", "3 classes"):
        listed(root, "a.png,3\n", classes=root / "names.txt")


def test_boxes(root, refused):
    data = listed(root, "path,label,x0,y0,x1,y1\na.png,wren,-1,2,5,99\nf#0.png,wren,,,,\n")
    assert data[0].annotation.box == (0, 2, 5, 8) and data[1].annotation.box is None
    with refused("a.png", "many"):
        listed(root, "path,x0,y0,x1,y1\na.png,1,2,many,4\n")


def test_paths_stay_inside(root, tmp_path_factory, refused):
    outside = tmp_path_factory.mktemp("outside")
    Image.new("RGB", (4, 4)).save(outside / "secret.png")
    (root / "door").symlink_to(outside, target_is_directory=True)
    (root / "loop").symlink_to(root / "loop")
    bad = ["../x.png", "/etc/passwd", "sub/../../x.png", "door/secret.png", "~/x.png", "loop/a.png", "a\0.png"]
    data = listed(root, "\n".join(["a.png", *bad, "./a.png"]), "list.txt")
    assert [s.id for s in data] == ["a.png"]
    assert [entry for entry, _ in data.skipped] == [*bad, "a.png"]
    assert "through a link" in dict(data.skipped)["door/secret.png"]
    assert "listed twice" in dict(data.skipped)["a.png"]
    with refused("list.txt: no pictures", "../x.png", "leads out"):
        listed(root, "../x.png", "list.txt")


def test_another_root(root):
    (root / "lists").mkdir()
    (root / "lists" / "list.csv").write_text("a.png\n")
    data = ListFile(root / "lists" / "list.csv", root=root)
    assert data[0].open().size == (10, 8)


def test_bad_lists(root, refused):
    for content in ("", "\n\n", "# only a comment\n"):
        with refused("list.csv is an empty list"):
            listed(root, content)
    with refused("no pictures"):
        listed(root, "path,label\n")
    (root / "latin.csv").write_bytes("ä.png,wren\n".encode("latin-1"))
    with refused("latin.csv", "not UTF-8"):
        ListFile(root / "latin.csv")
    with refused("nowhere.csv does not exist"):
        ListFile(root / "nowhere.csv")
    data = listed(root, "gone.png,wren\na.png,wren\n")
    with refused("gone.png", "does not exist"):
        data[0].open()
    assert data[1].open().size == (10, 8)
