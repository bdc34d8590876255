"""The prefix cache: what is found, what is not, and what is evicted first."""

from __future__ import annotations

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ernie_backend.kv.block_hash import HASH_BYTES, extend_hashes
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.media import MediaItem, MediaSpan
from ernie_backend.request.sequence import Sequence
from fakes.media import PLACEHOLDER, make_item, put_media
from fakes.sequences import with_prompt

TOKENS = tuple(range(10, 20))


def _hashes(tokens: tuple[int, ...], block_size: int = 2) -> list[bytes]:
    hashes: list[bytes] = []
    extend_hashes(hashes, with_prompt("r", tokens), len(tokens) // block_size, block_size)
    return hashes


def _computed(blocks: BlockManager, request_id: str, tokens: tuple[int, ...]) -> int | None:
    """Admit a request and compute all its tokens; return how many were there already."""
    found = blocks.allocate(with_prompt(request_id, tokens))
    if found is not None:
        blocks.begin_step()
        blocks.mark_scheduled(with_prompt(request_id, tokens), found, len(tokens))
        blocks.cache_blocks(with_prompt(request_id, tokens), found, len(tokens))
    blocks.check_integrity()
    return found


def test_a_hash_depends_on_every_token_before_it() -> None:
    hashes = _hashes(TOKENS)
    assert len(hashes) == len(set(hashes)) == 5
    assert {len(each) for each in hashes} == {HASH_BYTES}
    assert _hashes(TOKENS[:7]) == hashes[:3], "a block that is not full has no hash"
    assert _hashes((0, *TOKENS[1:]))[4] != hashes[4]
    assert _hashes(TOKENS[2:])[0] != hashes[1]
    assert _hashes((-1, 5)) != _hashes((5, -1))


def test_hashes_are_extended_where_they_end() -> None:
    hashes = _hashes(TOKENS[:4])
    extend_hashes(hashes, with_prompt("r", TOKENS), 5, 2)
    assert hashes == _hashes(TOKENS)


def test_requests_with_different_salts_share_nothing_and_no_salt_makes_a_hash_of_tokens() -> None:
    blocks = BlockManager(40, 2)

    def found(request_id: str, salt: str) -> int:
        count = blocks.allocate(with_prompt(request_id, TOKENS, salt))
        assert count is not None
        assert count == blocks.num_cached_tokens(with_prompt(request_id + " asks", TOKENS, salt))
        blocks.begin_step()
        blocks.mark_scheduled(with_prompt(request_id, TOKENS, salt), count, len(TOKENS))
        assert blocks.is_scheduled(with_prompt(request_id + " waits", TOKENS, salt)) == (count == 0)
        blocks.cache_blocks(with_prompt(request_id, TOKENS, salt), count, len(TOKENS))
        return count

    assert [found("a", ""), found("b", "red"), found("c", "blue")] == [0, 0, 0]
    assert [found("d", "red"), found("e", ""), found("f", "blue")] == [8, 8, 8]
    hashes: list[bytes] = []
    extend_hashes(hashes, with_prompt("r", (7, 8), array("i", (5, 6)).tobytes().decode()), 1, 2)
    assert hashes[0] != _hashes((5, 6, 7, 8))[1], "the salt is not a block of tokens"


RED, BLUE = make_item(1, 5), make_item(2, 5)
QUESTION = (1, 2, 3, *[PLACEHOLDER] * 5, 4, 5, 6)
"""The picture is in blocks 1, 2 and 3 of 2 tokens."""


def _about(item: MediaItem, start: int = 3, tokens: tuple[int, ...] = QUESTION) -> Sequence:
    return put_media(with_prompt("r", tokens), (start,), (item,))


def _hashes_of(sequence: Sequence) -> list[bytes]:
    hashes: list[bytes] = []
    extend_hashes(hashes, sequence, sequence.num_tokens // 2, 2)
    return hashes


def test_a_hash_depends_on_the_pictures_in_its_block_and_before() -> None:
    red, text = _hashes_of(_about(RED)), _hashes(QUESTION)
    assert red == _hashes_of(_about(make_item(1, 5))), "the same picture, whoever sends it"
    for other in (_hashes_of(_about(BLUE)), text, _hashes_of(_about(RED, start=4))):
        assert other[0] == red[0], "no picture yet"
        assert not {*other[1:]} & {*red[1:]}
    moved = _about(RED)
    moved.media = (MediaSpan(0, 3, 4), MediaSpan(0, 7, 1, first_row=3))
    assert _hashes_of(moved)[:3] == red[:3]
    assert _hashes_of(moved)[3] != red[3], "other rows of the same picture"


def test_a_token_that_goes_to_the_experts_of_vision_is_not_the_same_without_a_picture() -> None:
    around, text = _about(RED), _hashes(QUESTION)
    assert around.vision_types is not None
    around.vision_types[1] = True  # <|IMAGE_START|>, with the picture in the next block
    assert _hashes_of(around)[0] != text[0]
    around.vision_types = None  # of a model without such experts
    assert _hashes_of(around)[0] == text[0]


def test_what_a_client_can_write_makes_no_hash_of_a_picture() -> None:
    hashes = _hashes_of(_about(RED))
    record = RED.digest + array("q", (1, 1, 0)).tobytes()  # in block 1
    text = array("i", QUESTION[2:4]).tobytes()
    for prefix in (hashes[0] + text, text, _hashes(QUESTION)[1]):
        forged = tuple(array("i", prefix + record))
        for size in range(1, len(forged) + 1):
            assert not {*_hashes(forged, size), *_hashes(forged[8:], size)} & {*hashes[1:]}


def test_the_same_question_about_another_picture_is_cached_up_to_the_picture() -> None:
    blocks = BlockManager(40, 2)

    def found(request_id: str, item: MediaItem) -> int | None:
        sequence = _about(item)
        sequence.request_id = request_id
        count = blocks.allocate(sequence)
        blocks.cache_blocks(sequence, count or 0, sequence.num_tokens)
        blocks.check_integrity()
        return count

    assert [found("red", RED), found("blue", BLUE), found("red again", RED)] == [0, 2, 10]


def test_full_blocks_are_shared_but_never_the_one_of_the_last_token() -> None:
    blocks = BlockManager(20, 2)
    assert _computed(blocks, "a", TOKENS) == 0
    assert _computed(blocks, "same", TOKENS) == 8
    assert _computed(blocks, "longer", (*TOKENS, 5)) == 10
    assert _computed(blocks, "shorter", TOKENS[:5]) == 4
    assert _computed(blocks, "other end", (*TOKENS[:5], 0, 0, 0)) == 4
    assert _computed(blocks, "other start", (0, *TOKENS[1:])) == 0
    assert blocks.table("same")[:4] == blocks.table("a")[:4]
    assert blocks.table("same")[4] != blocks.table("a")[4]
    assert blocks.table("longer")[:5] == blocks.table("a")
    assert (blocks.num_queried_tokens, blocks.num_hit_tokens) == (10 + 10 + 11 + 5 + 8 + 10, 8 + 10 + 4 + 4)


def test_nothing_is_found_before_it_is_computed() -> None:
    blocks = BlockManager(20, 2)
    blocks.allocate(with_prompt("a", TOKENS))
    blocks.mark_scheduled(with_prompt("a", TOKENS), 0, 6)
    blocks.cache_blocks(with_prompt("a", TOKENS), 0, 6)
    assert blocks.allocate(with_prompt("b", TOKENS)) == 6


def test_content_outlives_its_request_until_its_block_is_taken() -> None:
    blocks = BlockManager(5, 2)
    _computed(blocks, "a", TOKENS)
    blocks.free("a")
    assert blocks.num_free == 5
    assert _computed(blocks, "b", TOKENS[:5]) == 4
    assert _computed(blocks, "big", (1, 2, 3, 4)) == 0
    blocks.free("b")
    blocks.free("big")
    assert _computed(blocks, "c", TOKENS) == 4, "the end was evicted, the beginning is still there"


def test_the_least_recently_used_prefix_is_evicted_first() -> None:
    blocks = BlockManager(4, 2)
    for name, tokens in (("a", (1, 2)), ("b", (3, 4)), ("a again", (1, 2, 9))):
        _computed(blocks, name, tokens)
        blocks.free(name)
    _computed(blocks, "taker", (7, 7, 7, 7, 7, 7))
    blocks.free("taker", keep_content=False)
    assert blocks.allocate(with_prompt("b again", (3, 4, 9))) == 0
    assert blocks.allocate(with_prompt("a again", (1, 2, 9))) == 2


def test_free_blocks_that_are_found_count_as_room() -> None:
    blocks = BlockManager(3, 2)
    _computed(blocks, "a", TOKENS[:6])
    blocks.free("a")
    assert blocks.allocate(with_prompt("b", TOKENS[:6]), headroom=1) is None
    assert blocks.allocate(with_prompt("b", TOKENS[:6])) == 4
    assert blocks.num_free == 0


def test_content_that_must_not_be_kept_is_not_found() -> None:
    blocks = BlockManager(9, 2)
    _computed(blocks, "a", TOKENS)
    blocks.free("a", keep_content=False)
    assert blocks.allocate(with_prompt("b", TOKENS)) == 0


def test_who_does_not_want_it_or_has_it_off_finds_nothing() -> None:
    blocks = BlockManager(20, 2)
    _computed(blocks, "a", TOKENS)
    assert blocks.allocate(with_prompt("b", TOKENS), reuse=False) == 0
    off = BlockManager(20, 2, enable_prefix_caching=False)
    _computed(off, "a", TOKENS)
    assert _computed(off, "b", TOKENS) == 0
    assert (off.num_queried_tokens, off.num_hit_tokens) == (0, 0)


def test_a_block_that_this_step_computes_is_scheduled() -> None:
    blocks = BlockManager(20, 2)
    blocks.allocate(with_prompt("a", TOKENS))
    assert not blocks.is_scheduled(with_prompt("b", TOKENS))
    blocks.begin_step()
    blocks.mark_scheduled(with_prompt("a", TOKENS), 0, 5)
    assert blocks.is_scheduled(with_prompt("b", TOKENS))
    assert not blocks.is_scheduled(with_prompt("other", (0, *TOKENS)))
    assert not blocks.is_scheduled(with_prompt("short", TOKENS[:2])), (
        "its only full block ends with its last token"
    )
    blocks.cache_blocks(with_prompt("a", TOKENS), 0, 5)
    blocks.begin_step()
    assert not blocks.is_scheduled(with_prompt("b", TOKENS))
    assert blocks.allocate(with_prompt("b", TOKENS)) == 4


class BlockMachine(RuleBasedStateMachine):
    """Admit, compute, grow and free in any order, against the content that every block should have."""

    @initialize(num_blocks=st.integers(1, 8), block_size=st.integers(1, 3))
    def start(self, num_blocks: int, block_size: int) -> None:
        self.blocks = BlockManager(num_blocks, block_size)
        self.size = block_size
        self.content: dict[tuple[int, int], int] = {}  # (block, slot) -> hash of all tokens up to there
        self.live: dict[str, tuple[list[int], int]] = {}  # request -> tokens, how many are computed
        self.count = 0

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=9), headroom=st.integers(0, 2))
    def admit(self, tokens: list[int], headroom: int) -> None:
        request_id = f"r{self.count}"
        self.count += 1
        free_before = self.blocks.num_free
        found = self.blocks.allocate(with_prompt(request_id, tokens), headroom=headroom)
        if found is None:
            assert self.blocks.num_free == free_before
            self.blocks.free(request_id)
            return
        assert 0 <= found < len(tokens)
        assert found % self.size == 0
        assert self.blocks.num_free >= headroom
        self.live[request_id] = (tokens, found)
        self._check(request_id, found)

    @rule(data=st.data(), count=st.integers(1, 5))
    def compute(self, data: st.DataObject, count: int) -> None:
        if not self.live:
            return
        request_id = data.draw(st.sampled_from(sorted(self.live)))
        tokens, start = self.live[request_id]
        if start == len(tokens):
            tokens.append(data.draw(st.integers(0, 1)))
            if not self.blocks.grow(request_id, len(tokens)):
                tokens.pop()
                return
        end = min(len(tokens), start + count)
        self.blocks.begin_step()
        self.blocks.mark_scheduled(with_prompt(request_id, tokens), start, end)
        for position in range(start, end):
            self._write(request_id, position)
        self.blocks.cache_blocks(with_prompt(request_id, tokens), start, end)
        self.live[request_id] = (tokens, end)
        for other, (_, computed) in self.live.items():
            self._check(other, computed)

    @rule(data=st.data(), keep_content=st.booleans())
    def free(self, data: st.DataObject, keep_content: bool) -> None:
        if self.live:
            request_id = data.draw(st.sampled_from(sorted(self.live)))
            self.blocks.free(request_id, keep_content=keep_content)
            del self.live[request_id]

    def _slot(self, request_id: str, position: int) -> tuple[int, int]:
        return self.blocks.table(request_id)[position // self.size], position % self.size

    def _write(self, request_id: str, position: int) -> None:
        self.content[self._slot(request_id, position)] = hash(tuple(self.live[request_id][0][: position + 1]))

    def _check(self, request_id: str, computed: int) -> None:
        """What a request has computed or found is what its tokens say, whatever others have done since."""
        tokens = self.live[request_id][0]
        for position in range(computed):
            assert self.content[self._slot(request_id, position)] == hash(tuple(tokens[: position + 1]))

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        if hasattr(self, "blocks"):
            self.blocks.check_integrity()
            used = {block for request_id in self.live for block in self.blocks.table(request_id)}
            assert self.blocks.num_free == self.blocks.num_blocks - len(used)

    def teardown(self) -> None:
        if hasattr(self, "blocks"):
            for request_id in self.live:
                self.blocks.free(request_id)
            assert self.blocks.num_free == self.blocks.num_blocks
            assert not self.blocks._hashes


TestBlockMachine = BlockMachine.TestCase
TestBlockMachine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
