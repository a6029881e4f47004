from tiny import tiny_checkpoint

def test_x():
    assert tiny_checkpoint().id
