def test_apply_and_remove(netns):
    before = netns.everything()
    netns.init("-p", "15001", "-u", "1337")
    assert netns.everything() != before
    netns.init("--cleanup-only")
    assert netns.everything() == before
