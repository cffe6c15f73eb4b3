"""Secrets are told to nobody: planted where a broker and its commands are given them, they are looked for in all that comes out.

That is everything printed, with all of the log there is, metrics, what clients are told of the configuration, and every file of
the data directory.
"""

import base64
import os
import subprocess
import urllib.parse
import urllib.request

import pytest

from archive.conftest import flags, flush
from compat.clients import LibRdKafka
from harness import s3, topics
from harness.batch import Record
from harness.broker import Alluvium, binary
from harness.lax_s3 import Handler, LaxS3
from harness.wire import Connection

# The one that opens the bucket, one that it has precedence over, and a token with which nothing opens.
OPENS, PASSED_OVER, TOKEN = s3.SECRET, "pl4nted/secret+key0", "pl4nted/session+token="
BROKER, TOPIC = 4, 2
DONE, FAILED, USAGE, UNREACHABLE = [0], [1], [2], [4]


@pytest.fixture
def store(seaweedfs, fresh_name):
    """A bucket whose secret is not in the environment, where there is another."""
    made = s3.S3Store(seaweedfs.port, fresh_name("secrets"))
    made.environment |= {"AWS_SECRET_ACCESS_KEY": PASSED_OVER}
    return made


@pytest.fixture
def config(tmp_path):
    """The settings file that has the secret."""
    path = tmp_path / "alluvium.toml"
    path.write_text(f'[archive]\naccess_key_id = "{s3.KEY_ID}"\nsecret_access_key = "{OPENS}"\n')
    return path


def keeps_secrets(where, said):
    """None of the secrets is in some bytes, neither as it is nor as it is sent."""
    for secret in (OPENS, PASSED_OVER, TOKEN):
        raw = secret.encode()
        for form in (raw, urllib.parse.quote(secret, safe="").encode(), base64.b64encode(raw), raw.hex().encode()):
            at = said.find(form)
            assert at < 0, f"{where} tells a secret: {said[max(0, at - 300) : at + 100]}"


def keeps_secrets_all_over(broker):
    """None of the secrets is in anything that a running broker says or writes."""
    keeps_secrets("the log", broker.log.read_bytes())
    for path in ("metrics", "health/ready"):
        with urllib.request.urlopen(f"http://{broker.http}/{path}", timeout=10) as answer:
            keeps_secrets(path, answer.read())
    places = (BROKER, "1"), (BROKER, ""), (TOPIC, "secrets")
    asked = [{"ResourceType": kind, "ResourceName": name, "ConfigurationKeys": None} for kind, name in places]
    with Connection(broker.bootstrap, 30) as connection:
        body = {"Resources": asked, "IncludeSynonyms": True, "IncludeDocumentation": True}
        answer = connection.ask("DescribeConfigs", 4, body)["Results"]
    assert any(one["Configs"] for one in answer), answer
    keeps_secrets("DescribeConfigs", str(answer).encode())
    files = [path for path in broker.directory.rglob("*") if path.is_file()]
    assert any(path.suffix == ".segment" for path in files), files
    for path in files:
        keeps_secrets(path, path.read_bytes())


def say(status, *arguments, **environment):
    """What a command of alluvium prints, which ends so and tells no secret."""
    command = [str(part) for part in (binary(), *arguments)]
    done = subprocess.run(command, env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    said = done.stdout + done.stderr
    keeps_secrets(arguments, said)
    assert done.returncode in status, f"{arguments} ended with {done.returncode}: {said}"
    return said.decode()


def test_a_broker_that_logs_all_that_it_can_tells_no_secret(store, config, tmp_path):
    arguments = [*flags(store, "telemetry.log_filter=trace"), "--config", config]
    broker = Alluvium(tmp_path / "broker", *arguments, environment=store.environment)
    try:
        topics.create(broker.bootstrap, "secrets")
        LibRdKafka(broker.bootstrap).produce("secrets", [Record(b"%d" % number) for number in range(100)])
        flush(broker, "secrets")
        keeps_secrets_all_over(broker)
        broker.stop()
        # With the token the bucket denies access; the broker serves without it, and says why.
        broker.environment |= {"AWS_SESSION_TOKEN": TOKEN}
        broker.start()
        assert len(topics.records(broker.bootstrap, "secrets")) == 100
        said = broker.log.read_text()
        assert "starting without the object store" in said and " TRACE " in said
        keeps_secrets_all_over(broker)
    finally:
        broker.kill()


def test_commands_tell_no_secret_whether_the_settings_are_right_or_wrong(config, tmp_path):
    environment = {"AWS_SECRET_ACCESS_KEY": PASSED_OVER, "AWS_SESSION_TOKEN": TOKEN, "AWS_ACCESS_KEY_ID": "planted"}
    right = ["--config", config, "--object-store", "s3://bucket"]
    for command in (["print"], ["print", "--json"], ["check"]):
        said = say(DONE, "config", *command, *right, **environment)
        assert "<redacted>" in said or "is right" in said
    wrong = tmp_path / "wrong.toml"
    for written in (
        f'secret_access_key = "{OPENS}',
        f"secret_access_key = {OPENS}",
        f'secret_access_key = ["{OPENS}"]',
        f'secret_acess_key = "{OPENS}"',
        f'secret_access_key = "{OPENS}"',
        f'secret_access_key = "{OPENS}"\nsecret_access_key = "{OPENS}"',
        f'url = "s3://key:{OPENS}@bucket"',
        f'url = "s3://bucket?secret={OPENS}"',
        f'url = "https://account.blob.core.windows.net/container?sig={OPENS}"',
        f'url = "s3://bucket"\nendpoint = "https://key:{OPENS}@127.0.0.1"',
    ):
        wrong.write_text(f"[archive]\n{written}\n")
        for command in (["config", "print"], ["config", "check"], ["serve"]):
            assert "wrong.toml:" in say(USAGE, *command, "--config", wrong, **environment)
    for name, value in (
        ("AWS_SECRET_ACCESS_KEY", f"{PASSED_OVER}\n"),
        ("AWS_SESSION_TOKEN", f"{TOKEN}\n"),
        ("AWS_ENDPOINT_URL", f"http://key:{PASSED_OVER}@127.0.0.1"),
        ("ALLUVIUM__ARCHIVE__SECRET_ACESS_KEY", PASSED_OVER),
    ):
        assert name in say(USAGE, "config", "check", "--object-store", "s3://bucket", **environment | {name: value})


def test_a_store_that_does_not_answer_has_no_secret_told():
    nowhere = f"http://127.0.0.1:{s3.free_ports(1)}"
    amazon = {"AWS_SECRET_ACCESS_KEY": PASSED_OVER, "AWS_SESSION_TOKEN": TOKEN, "AWS_ACCESS_KEY_ID": "planted"}
    amazon |= {"AWS_ENDPOINT_URL": nowhere, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    azure = {"AZURE_STORAGE_ACCOUNT_NAME": "planted", "AZURE_STORAGE_ENDPOINT": nowhere, "AZURE_ALLOW_HTTP": "true"}
    # Part of every address.
    azure |= {"AZURE_STORAGE_SAS_TOKEN": f"sv=2021-08-06&sig={urllib.parse.quote(TOKEN)}"}
    for url, environment in (("s3://bucket", amazon), ("az://container", azure)):
        assert "object store" in say(UNREACHABLE, "archive", "ls", "--object-store", url, **environment)


def test_a_store_that_repeats_the_token_that_it_refuses_has_it_not_told(tmp_path):
    server = LaxS3(Repeater)
    environment = s3.S3Store(server.port, "").environment | {"AWS_SESSION_TOKEN": TOKEN}
    say(FAILED + UNREACHABLE, "archive", "ls", "--object-store", "s3://bucket", **environment)
    listen = [part for kind in ("kafka", "http") for part in (f"--{kind}-listen", "127.0.0.1:0")]
    say(FAILED + UNREACHABLE, "serve", "--data-dir", tmp_path / "data", "--object-store", "s3://bucket", *listen, **environment)
    server.stop()


class Repeater(Handler):
    """Answers as Amazon does to a token that has run out."""

    def refuse(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        token = self.headers["x-amz-security-token"]
        self.answer(400, f"<Error><Code>ExpiredToken</Code><Message>on purpose</Message><Token-0>{token}</Token-0></Error>")

    do_GET = do_HEAD = do_PUT = do_DELETE = refuse
