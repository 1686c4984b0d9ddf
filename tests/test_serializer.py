"""The serializer seals bytes into cookie values that nobody can alter."""

import importlib.util
import string
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_sqlalchemy_sessions import generate_secret_key
from pyramid_sqlalchemy_sessions import serializer as module
from pyramid_sqlalchemy_sessions.exceptions import (
    ConfigurationError,
    CookieCryptoError,
    InvalidCookieError,
)
from pyramid_sqlalchemy_sessions.serializer import AESGCMSerializer

KEY = bytes(range(32))
OTHER_KEY = bytes(range(50, 66))
TEXT = urlsafe_b64encode(KEY).decode()
OTHER_TEXT = urlsafe_b64encode(OTHER_KEY).decode()
NONCE = bytes(range(100, 116))
SESSION_ID = bytes(range(200, 216))
RENEWAL_ID = bytes(range(216, 232))
VECTORS = [
    (
        SESSION_ID,
        b"ZGVmZ2hpamtsbW5vcHFyc_mUla6MUzkbxLOpLmScIDMQeomaKNnpF2Iof1qTAjqy",
    ),
    (
        SESSION_ID + RENEWAL_ID,
        b"ZGVmZ2hpamtsbW5vcHFyc5EGp3oWeBq_Ilvkkuw6iWYQeomaKNnpF2Iof1qTAjqy"
        b"gqiCG0AyPtQlYfaNfRLhLw==",
    ),
]
URLSAFE = string.ascii_letters + string.digits + "-_"

CIPHERS = {"pycryptodome": module._PyCryptodomeCipher}
if hasattr(module, "_CryptographyCipher"):
    CIPHERS["cryptography"] = module._CryptographyCipher


def make_serializer(secret=KEY, cipher=None):
    """Return a serializer that works with the named backend."""
    serializer = AESGCMSerializer(secret)
    if cipher is not None:
        keys = [secret] if isinstance(secret, bytes) else secret
        serializer._ciphers = tuple(CIPHERS[cipher](key) for key in keys)
    return serializer


def load_without_cryptography(monkeypatch):
    """Return a second copy of the module, imported where there is no `cryptography`."""
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    spec = importlib.util.spec_from_file_location(module.__name__, module.__file__)
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    return copied


each_cipher = pytest.mark.parametrize("cipher", CIPHERS)
data = st.binary(min_size=1, max_size=100)
values = st.one_of(
    st.text(max_size=200),
    st.binary(max_size=200),
    st.text(URLSAFE + "=+/", max_size=200),
    st.binary(min_size=33, max_size=99).map(urlsafe_b64encode),
)


class TestWireFormat:
    """What is on the wire is what version 0.1.0 wrote."""

    @each_cipher
    @pytest.mark.parametrize(("plain", "sealed"), VECTORS)
    def test_vectors_are_written(self, monkeypatch, cipher, plain, sealed):
        """With a known nonce the value is known to the last byte."""
        monkeypatch.setattr(module.secrets, "token_bytes", lambda size: NONCE[:size])
        assert make_serializer(KEY, cipher).dumps(plain) == sealed

    @each_cipher
    @pytest.mark.parametrize(("plain", "sealed"), VECTORS)
    def test_vectors_are_read(self, cipher, plain, sealed):
        """Cookies of 0.1.0 keep working, as bytes and as text."""
        serializer = make_serializer(KEY, cipher)
        assert serializer.loads(sealed) == plain
        assert serializer.loads(sealed.decode()) == plain

    @pytest.mark.parametrize("size", [16, 24, 32])
    @pytest.mark.parametrize("writer", CIPHERS)
    @pytest.mark.parametrize("reader", CIPHERS)
    def test_backends_read_each_other(self, size, writer, reader):
        """Installing or removing `cryptography` logs nobody out."""
        key = bytes(range(size))
        sealed = make_serializer(key, writer).dumps(SESSION_ID)
        assert make_serializer(key, reader).loads(sealed) == SESSION_ID

    def test_every_value_has_its_own_nonce(self):
        """Sealing the same bytes twice gives two values."""
        serializer = make_serializer()
        assert len({serializer.dumps(SESSION_ID)[:22] for _ in range(100)}) == 100

    @each_cipher
    @given(plain=data)
    def test_round_trip(self, cipher, plain):
        """What was sealed comes back."""
        serializer = make_serializer(KEY, cipher)
        assert serializer.loads(serializer.dumps(plain)) == plain

    @each_cipher
    def test_the_largest_data_makes_the_largest_value(self, cipher):
        """3040 bytes fill the 4096 characters that a cookie may have."""
        serializer = make_serializer(KEY, cipher)
        sealed = serializer.dumps(bytes(3040))
        assert len(sealed) == 4096
        assert serializer.loads(sealed) == bytes(3040)

    @pytest.mark.parametrize("size", [0, 3041])
    def test_what_could_not_be_read_is_not_written(self, size):
        """Nothing, and more than a cookie holds, is refused."""
        with pytest.raises(ValueError, match=f"cannot seal {size} bytes"):
            make_serializer().dumps(bytes(size))


class TestTampering:
    """Whatever was not sealed with our key raises one of two errors."""

    @each_cipher
    @pytest.mark.parametrize("plain", [SESSION_ID, SESSION_ID + RENEWAL_ID])
    def test_any_flipped_bit_is_noticed(self, cipher, plain):
        """Each single bit of nonce, tag and ciphertext is authenticated."""
        serializer = make_serializer(KEY, cipher)
        raw = urlsafe_b64decode(serializer.dumps(plain))
        for bit in range(len(raw) * 8):
            altered = bytearray(raw)
            altered[bit // 8] ^= 1 << bit % 8
            with pytest.raises(CookieCryptoError):
                serializer.loads(urlsafe_b64encode(altered))

    @each_cipher
    @given(
        plain=data, where=st.integers(0, 10**6), what=st.characters(max_codepoint=255)
    )
    def test_any_changed_character_is_noticed(self, cipher, plain, where, what):
        """No other character in any place is taken for the right one."""
        serializer = make_serializer(KEY, cipher)
        sealed = serializer.dumps(plain).decode()
        where %= len(sealed)
        altered = sealed[:where] + what + sealed[where + 1 :]
        if altered != sealed:
            with pytest.raises((InvalidCookieError, CookieCryptoError)):
                serializer.loads(altered)

    @each_cipher
    @given(value=values)
    def test_no_input_raises_anything_else(self, cipher, value):
        """Arbitrary text and bytes are either malformed or not authentic."""
        with pytest.raises((InvalidCookieError, CookieCryptoError)):
            make_serializer(KEY, cipher).loads(value)

    @each_cipher
    def test_another_key_opens_nothing(self, cipher):
        """The error of a wrong key is about cryptography, not about form."""
        sealed = make_serializer(OTHER_KEY, cipher).dumps(SESSION_ID)
        with pytest.raises(CookieCryptoError):
            make_serializer(KEY, cipher).loads(sealed)


class TestForm:
    """Of the many spellings of base64 one is accepted."""

    @pytest.mark.parametrize("size", [16, 17, 18, 32])
    def test_every_other_last_character_is_refused(self, size):
        """Bits that carry nothing must be zero, or a cookie would have many values."""
        serializer = make_serializer()
        sealed = serializer.dumps(bytes(size)).decode()
        body, padding = sealed.rstrip("="), sealed[len(sealed.rstrip("=")) :]
        for last in URLSAFE:
            if last != body[-1]:
                with pytest.raises((InvalidCookieError, CookieCryptoError)) as caught:
                    serializer.loads(body[:-1] + last + padding)
                same_bytes = urlsafe_b64decode(
                    body[:-1] + last + padding
                ) == urlsafe_b64decode(sealed)
                assert not same_bytes or caught.type is InvalidCookieError

    @pytest.mark.parametrize(
        "respell",
        [
            lambda text: text.rstrip("="),
            lambda text: text[:-1],
            lambda text: text + "=",
            lambda text: text + "====",
            lambda text: text + "A",
            lambda text: text + "\n",
            lambda text: " " + text,
            lambda text: "=" + text,
            lambda text: text[:10] + "\n" + text[10:],
            lambda text: text[:10] + "!" + text[10:],
            lambda text: text[:10] + "=" + text[10:],
            lambda text: text.replace("_", "/"),
            lambda text: text.replace("=", "%3D"),
            lambda text: text + text,
            lambda text: text + "\N{LATIN SMALL LETTER E WITH ACUTE}",
            lambda text: text + "\N{FULLWIDTH LATIN CAPITAL LETTER A}",
            lambda text: text + "\ud800",
            lambda text: text + "\0",
        ],
    )
    def test_other_spellings_are_refused(self, respell):
        """Padding, white space, the other alphabet and foreign characters matter."""
        sealed = VECTORS[1][1].decode()
        with pytest.raises(InvalidCookieError):
            make_serializer().loads(respell(sealed))

    def test_other_spellings_are_refused_as_bytes(self):
        """What holds for text holds for bytes."""
        with pytest.raises(InvalidCookieError):
            make_serializer().loads(VECTORS[1][1] + b"\xe9")

    @pytest.mark.parametrize("size", [0, 1, 16, 31, 32])
    def test_too_short_a_value_is_malformed(self, size):
        """Nonce, tag and at least one byte are needed before a key is tried."""
        with pytest.raises(InvalidCookieError):
            make_serializer().loads(urlsafe_b64encode(bytes(size)))

    def test_the_shortest_well_formed_value_is_decrypted(self):
        """33 bytes have the right form, whatever they hold."""
        with pytest.raises(CookieCryptoError):
            make_serializer().loads(urlsafe_b64encode(bytes(33)))

    @pytest.mark.parametrize("value", ["A" * 4100, b"A" * 4100, "A" * 10**6])
    def test_too_long_a_value_is_not_even_decoded(self, value):
        """No browser holds more than 4096 bytes."""
        with pytest.raises(InvalidCookieError, match="too long"):
            make_serializer().loads(value)

    def test_errors_show_nothing_of_the_value(self):
        """An error may be logged, the cookie may not."""
        with pytest.raises(InvalidCookieError) as caught:
            make_serializer().loads("\xe9vil")
        assert "vil" not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None


class TestKeyRing:
    """Keys change without logging anybody out."""

    @each_cipher
    def test_the_first_key_encrypts(self, cipher):
        """New values need the new key only."""
        ring = make_serializer([KEY, OTHER_KEY], cipher)
        sealed = ring.dumps(SESSION_ID)
        assert make_serializer(KEY, cipher).loads(sealed) == SESSION_ID
        with pytest.raises(CookieCryptoError):
            make_serializer(OTHER_KEY, cipher).loads(sealed)

    @each_cipher
    def test_every_key_decrypts(self, cipher):
        """Old values stay readable until their key leaves the ring."""
        old = make_serializer(OTHER_KEY, cipher).dumps(SESSION_ID)
        assert make_serializer((KEY, OTHER_KEY), cipher).loads(old) == SESSION_ID
        with pytest.raises(CookieCryptoError):
            make_serializer([KEY], cipher).loads(old)

    def test_the_ring_is_frozen(self):
        """Changing the list afterwards changes no serializer."""
        keys = [KEY]
        serializer = AESGCMSerializer(keys)
        keys[0] = OTHER_KEY
        assert serializer.loads(VECTORS[0][1]) == SESSION_ID


class TestSecret:
    """A secret that cannot work is refused at start-up, unseen."""

    @pytest.mark.parametrize(
        ("secret", "said"),
        [
            (b"", "0 bytes"),
            (b"hunter2-hunter2", "15 bytes"),
            (b"hunter2" * 5, "35 bytes"),
            ("", "empty"),
            (" ", "empty"),
            ("hunter2-hunter2!", "some other text"),
            ("hunter2" * 4 + "hunt", "repeats"),
            (["hunter2" * 4 + "hunt"], "repeats"),
            (bytearray(b"hunter2-hunter2!"), "type bytearray"),
            (None, "type NoneType"),
            ([], "empty"),
            ((), "empty"),
            ([KEY, b"hunter2"], "key 2 of 2 is 7 bytes"),
            ([KEY, "hunter2-hunter2!"], "key 2 of 2 is some other text"),
            (f"{TEXT} hunter2-hunter2!", "key 2 of 2 is some other text"),
            ([[KEY]], "type list"),
            ({KEY}, "type set"),
        ],
    )
    def test_bad_secrets_are_refused(self, secret, said):
        """The error says what is wrong and never what the secret is."""
        with pytest.raises(ConfigurationError, match=said) as caught:
            AESGCMSerializer(secret)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("size", [16, 24, 32])
    def test_generated_keys_are_accepted(self, size):
        """What generate_secret_key makes is a key, with its padding or without."""
        key = generate_secret_key(size)
        of_bytes = AESGCMSerializer(urlsafe_b64decode(key))
        for text in (key, key.rstrip("=")):
            assert AESGCMSerializer(text).loads(of_bytes.dumps(b"x")) == b"x"

    @pytest.mark.parametrize(
        "secret",
        [
            f"{TEXT} {OTHER_TEXT}",
            [TEXT, OTHER_TEXT],
            (TEXT, OTHER_KEY),
            [KEY, OTHER_TEXT],
        ],
        ids=["text", "texts", "text and bytes", "bytes and text"],
    )
    def test_ring_of_either(self, secret):
        """A ring is a text or a list, of texts and of bytes."""
        ring = AESGCMSerializer(secret)
        assert ring.loads(AESGCMSerializer(OTHER_KEY).dumps(b"x")) == b"x"
        assert AESGCMSerializer(KEY).loads(ring.dumps(b"x")) == b"x"

    @pytest.mark.parametrize("size", [16, 24, 32])
    def test_aes_keys_are_accepted(self, size):
        """AES has keys of three sizes."""
        serializer = AESGCMSerializer(bytes(size))
        assert serializer.loads(serializer.dumps(b"x")) == b"x"

    def test_no_key_shows(self):
        """A serializer in a log or a debug page reveals nothing."""
        key = b"hunter2-hunter2!"
        serializer = AESGCMSerializer([key, key])
        for shown in (repr(serializer), str(serializer), repr(serializer._ciphers)):
            assert "hunter2" not in shown


class TestBackend:
    """`cryptography` is used where it can be imported."""

    def test_cryptography_is_preferred(self):
        """The faster backend wins when it is there."""
        pytest.importorskip("cryptography")
        assert module._cipher_class is CIPHERS["cryptography"]

    def test_pycryptodome_is_the_default(self, monkeypatch):
        """Without `cryptography` the same bytes are made by PyCryptodome."""
        copied = load_without_cryptography(monkeypatch)
        assert copied._cipher_class is copied._PyCryptodomeCipher
        assert copied.AESGCMSerializer(KEY).loads(VECTORS[1][1]) == VECTORS[1][0]

    @each_cipher
    def test_threads_share_a_serializer(self, cipher):
        """Many threads seal and open at once, and each gets its own."""
        serializer = make_serializer([OTHER_KEY, KEY], cipher)

        def play(number):
            plain = number.to_bytes(16, "big")
            for _ in range(50):
                if serializer.loads(serializer.dumps(plain)) != plain:
                    return False
                if serializer.loads(VECTORS[0][1]) != SESSION_ID:
                    return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(play, range(16)))
