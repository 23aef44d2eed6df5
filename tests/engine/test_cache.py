import pytest

from chatglm3.engine.cache import BlockPool, blocks_for


class Colliding(int):
    """Ids whose hashes are all the same."""

    def __hash__(self):
        return 7


def fill(pool, contents, namespace=None):
    """Allocate and register one block for each content; returns the blocks."""
    blocks, link = pool.match(pool.root(namespace), contents)
    for content in contents[len(blocks) :]:
        blocks.append(pool.allocate())
        link = pool.register(blocks[-1], link, content)
    return blocks


def test_sizes():
    assert [blocks_for(tokens, 16) for tokens in (1, 16, 17)] == [1, 1, 2]


def test_a_prefix_is_found_block_by_block():
    pool = BlockPool(8, 2)
    first = fill(pool, [(1, 2), (3, 4), (5, 6)])
    pool.release(first)
    assert (pool.used, pool.cached, pool.available) == (0, 3, 8)
    found, _ = pool.match(pool.root(None), [(1, 2), (3, 4), (7, 8)])
    assert found == first[:2]
    assert (pool.used, pool.cached, pool.available) == (2, 1, 6)
    pool.check([found])


def test_the_same_tokens_elsewhere_are_another_content():
    pool = BlockPool(8, 2)
    fill(pool, [(1, 2), (3, 4)])
    assert pool.match(pool.root(None), [(3, 4)])[0] == []
    fill(pool, [(3, 4), (3, 4)])
    assert len(pool.match(pool.root(None), [(3, 4), (3, 4), (3, 4)])[0]) == 2


def test_namespaces_share_nothing():
    pool = BlockPool(8, 2)
    fill(pool, [(1, 2)], namespace="one adapter")
    assert pool.match(pool.root("another"), [(1, 2)])[0] == []
    assert pool.match(pool.root(None), [(1, 2)])[0] == []
    assert len(pool.match(pool.root("one adapter"), [(1, 2)])[0]) == 1


def test_colliding_hashes_do_not_mix():
    pool = BlockPool(8, 2)
    ids = [Colliding(i) for i in range(6)]
    assert hash((ids[0], ids[1])) == hash((ids[2], ids[3]))
    first = fill(pool, [(ids[0], ids[1]), (ids[4], ids[5])])
    assert pool.match(pool.root(None), [(ids[2], ids[3])])[0] == []
    second = fill(pool, [(ids[2], ids[3]), (ids[4], ids[5])])
    assert not set(first) & set(second)
    assert pool.match(pool.root(None), [(ids[0], ids[1]), (ids[4], ids[5])])[0] == first


def test_free_blocks_go_first_then_the_least_recently_used_end_of_a_prefix():
    pool = BlockPool(4, 2)
    old, new = fill(pool, [(1, 2), (3, 4)]), fill(pool, [(5, 6)])
    pool.release(old)
    pool.release(new)
    taken = [pool.allocate() for _ in range(2)]
    assert taken[0] not in old + new  # the one free block
    assert taken[1] == old[1]  # the end of the older prefix
    assert pool.match(pool.root(None), [(1, 2), (3, 4)])[0] == old[:1]
    pool.check([taken, old[:1]])


def test_an_evicted_content_is_not_found_and_its_link_never_returns():
    pool = BlockPool(2, 2)
    pool.release(fill(pool, [(1, 2), (3, 4)]))
    others = [pool.allocate(), pool.allocate()]
    assert pool.match(pool.root(None), [(1, 2)])[0] == []
    pool.release(others)
    fill(pool, [(1, 2)])
    assert len(pool.match(pool.root(None), [(1, 2), (3, 4)])[0]) == 1


def test_equal_content_computed_twice_is_known_once():
    pool = BlockPool(4, 2)
    root = pool.root(None)
    one, two = pool.allocate(), pool.allocate()
    assert pool.register(one, root, (1, 2)) == pool.register(two, root, (1, 2))
    assert pool.match(root, [(1, 2)])[0] == [one]
    pool.release([one])
    pool.release([two])
    pool.check([[one]])
    assert pool.cached == 0  # `one` is held, `two` cannot be found


def test_without_prefix_caching_nothing_is_found():
    pool = BlockPool(4, 2, prefix_caching=False)
    pool.release(fill(pool, [(1, 2)]))
    assert pool.match(pool.root(None), [(1, 2)])[0] == []
    assert pool.cached == 0


def test_the_check_notices_lost_and_doubled_blocks():
    pool = BlockPool(4, 2)
    block = pool.allocate()
    pool.check([[block]])
    for wrong in ([], [[block], [block]], [[block, block]]):
        with pytest.raises(AssertionError):
            pool.check(wrong)
