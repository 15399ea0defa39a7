from finercam.data.birds525 import Birds525


def test_splits_share_labels_in_spite_of_blanks(birds525_tree, refused, labels_of):
    train, valid = Birds525(birds525_tree, "train"), Birds525(birds525_tree, "valid")
    assert train.classes == valid.classes == ["ABBOTTS BABBLER", "PARAKETT AUKLET", "ZEBRA DOVE"]
    assert labels_of(train) == [0, 0, 1, 1, 2, 2] and labels_of(valid) == [0, 1, 2]
    assert labels_of(Birds525(birds525_tree, "val")) == labels_of(valid)
    test = Birds525(birds525_tree)
    assert test.name == "Birds-525 test" and test[1].id == "test/PARAKETT AUKLET/1.jpg"
    assert test[0].open().size == (32, 32) and test[0].annotation.box is None
    with refused("'vaild'", "'valid'"):
        Birds525(birds525_tree, "vaild")
