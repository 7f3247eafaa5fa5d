"""The page to look at models: its answers, and what a person sees of it in a real browser."""

import base64
import io
import shutil
import struct
import subprocess
import sys
import threading
import zlib

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.modeling import build_model
from PIL import Image

from deepfuse_d2.demo import DemoModel, TrainedModel, decode, find_models
from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import UserError

pytest.importorskip("flask", reason="needs the extra demo")

from deepfuse_d2.demo import page

CONFIG = "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def output(tmp_path_factory, repository, tiny_opts):
    """A folder as trainings leave it, with two tiny models of different random weights."""
    root = tmp_path_factory.mktemp("output")
    for seed in range(2):
        folder = root / "streets" / f"seed_{seed}"
        folder.mkdir(parents=True)
        # scores of random weights are low; all above one in a hundred are wanted
        opts = [*tiny_opts, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01"]
        cfg = load_config(str(repository / CONFIG), [*opts, "TEST.DETECTIONS_PER_IMAGE", "20"])
        (folder / "config.yaml").write_text(cfg.dump())
        torch.manual_seed(seed)
        weights = {"model": build_model(cfg).state_dict()}
        torch.save(weights, folder / "model_final.pth")
    (root / "unfinished").mkdir()
    (root / "unfinished" / "config.yaml").write_text("")
    return root


@pytest.fixture(scope="module")
def gallery(output, tiny_minicity):
    frames = sorted(tiny_minicity.glob("minicity/leftImg8bit/val/*/*.png"))
    return page.Gallery(find_models(output), frames)


@pytest.fixture(scope="module")
def client(gallery):
    return page.create_app(gallery).test_client()


def encoded(image):
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture(scope="module")
def photo():
    # smooth, so that JPEG keeps it
    spots = np.random.default_rng(0).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    return cv2.resize(spots, (128, 64), interpolation=cv2.INTER_CUBIC)


def picture_of(panel):
    content = base64.b64decode(panel["image"].partition(",")[2])
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).astype(int)


def drawing(client, token, models=(0,), threshold=0.0, layers=("instances", "semantics")):
    asked = {"picture": token, "models": models, "threshold": threshold, "layers": layers}
    return client.post("/drawings", json=asked)


def test_models_are_those_with_a_config_beside_final_weights(output):
    assert [model.name for model in find_models(output)] == ["streets/seed_0", "streets/seed_1"]
    assert find_models(output / "nowhere") == []


def test_an_upload_is_drawn_and_the_threshold_decides_what(client, photo):
    taken = client.post("/pictures", data=encoded(photo)).get_json()
    assert (taken["width"], taken["height"], taken["note"]) == (128, 64, "")
    everything = drawing(client, taken["picture"]).get_json()["panels"][0]
    nothing = drawing(client, taken["picture"], threshold=1.0).get_json()["panels"][0]
    assert everything["title"] == "streets/seed_0"
    assert sum(count for _, count in everything["instances"]) > 0
    assert nothing["instances"] == []
    # as uploaded, apart from the JPEG of the answer
    assert np.abs(picture_of(nothing) - photo).mean() < 12
    assert np.abs(picture_of(everything) - picture_of(nothing)).max() > 40
    hidden = drawing(client, taken["picture"], layers=[]).get_json()["panels"][0]
    np.testing.assert_array_equal(picture_of(hidden), picture_of(nothing))


def test_two_models_are_compared_and_one_with_itself_does_not_differ(client):
    token = client.post("/frames/0").get_json()["picture"]
    answer = drawing(client, token, models=(0, 1)).get_json()
    found = [sum(count for _, count in panel["instances"]) for panel in answer["panels"]]
    difference = answer["difference"]
    assert difference["both"] + difference["first"] == found[0] > 0
    assert difference["both"] + difference["second"] == found[1] > 0
    assert difference["first"] > 0
    same = drawing(client, token, models=(0, 0)).get_json()["difference"]
    assert (same["both"], same["first"], same["second"]) == (found[0], 0, 0)


class Labelling:
    """A model that labels the left part of a picture road, the rest sky."""

    metadata = Metadata(
        name="two", stuff_classes=["road", "sky"], stuff_colors=[(128, 64, 128), (70, 130, 180)]
    )

    def __init__(self, share):
        self.share = share

    def __call__(self, image):
        labels = np.ones(image.shape[:2], np.uint8)
        labels[:, : round(self.share * image.shape[1])] = 0
        return {"labels": labels}


def test_semantics_are_shown_and_compared_pixel_by_pixel(output, photo):
    fakes = {"quarter": Labelling(0.25), "half": Labelling(0.5)}
    models = [TrainedModel(name, output, output) for name in fakes] + find_models(output)[:1]
    loaded = [lambda x: fakes[x.name], DemoModel.load]
    mixed = page.Gallery(models, load=lambda x: loaded[x.name not in fakes](x))
    client = page.create_app(mixed).test_client()
    token = mixed.add(encoded(photo))["picture"]
    answer = drawing(client, token, models=(0, 1)).get_json()
    assert [panel["semantics"] for panel in answer["panels"]] == [
        [["sky", 0.75], ["road", 0.25]], [["road", 0.5], ["sky", 0.5]],
    ]  # fmt: skip
    difference = answer["difference"]
    assert difference["pixels"] == 0.25
    assert not difference["has_instances"]
    changed = picture_of(difference)
    grey = np.abs(changed[..., 0] - changed[..., 1]).mean(axis=0)
    assert grey[:28].max() < 10  # both say road
    assert grey[36:60].min() > 20
    hidden = drawing(client, token, layers=["instances"]).get_json()["panels"][0]
    assert np.abs(picture_of(hidden) - photo).mean() < 12
    answer = drawing(client, token, models=(0, 2)).get_json()
    assert answer["difference"] is None
    assert "labels pixels: no difference" in answer["note"]


def png_of_size(width, height):
    """A PNG that says it has that size and holds no pixels."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff_of_floats():
    content = io.BytesIO()
    Image.fromarray(np.full((4, 6), 300, np.float32)).save(content, "TIFF")
    return content.getvalue()


BAD_INPUTS = {
    "text": (b"no picture at all", "is not a picture; known formats are BMP, JPEG, PNG"),
    "empty": (b"", "is empty (0 bytes)"),
    "cut short": (encoded(np.full((64, 128, 3), 90, np.uint8))[:60], "is damaged"),
    "9k x 9k": (png_of_size(9_000, 9_000), "9000 x 9000 pixels; at most 64 million"),
    "20k x 20k": (png_of_size(20_000, 20_000), "far more than 64 million pixels"),
    "floats": (tiff_of_floats(), "floating-point numbers from 300 to 300, whose range is not"),
    "a script that draws": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a pict"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_what_is_no_picture_is_answered_with_what_is_wrong(client, name):
    content, message = BAD_INPUTS[name]
    answer = client.post("/pictures", data=content)
    assert answer.status_code == 400
    assert message in answer.get_json()["error"]


def test_grey_sixteen_bit_transparent_and_turned_pictures_are_taken(client):
    ramp = np.tile(np.linspace(0, 255, 128).astype(np.uint8), (64, 1))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.fromarray(np.repeat(ramp[:, :, None], 3, axis=2)).save(turned, "PNG", exif=exif)
    clear = np.zeros((64, 128, 4), np.uint8)
    cases = {
        "grey": (encoded(ramp), ramp),
        "16 bits": (encoded(ramp.astype(np.uint16) * 257), ramp),
        "transparent": (encoded(clear), np.full((64, 128), 255)),
        "EXIF": (turned.getvalue(), np.rot90(ramp, -1)),
    }
    for name, (content, expected) in cases.items():
        taken = client.post("/pictures", data=content).get_json()
        assert (taken["height"], taken["width"]) == expected.shape, name
        shown = picture_of(drawing(client, taken["picture"], layers=[]).get_json()["panels"][0])
        assert np.abs(shown - expected[:, :, None]).max() < 12, name


def test_a_transparent_picture_that_is_turned_lies_upright_on_white():
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    pixels = np.full((4, 6, 4), (10, 20, 30, 255), np.uint8)
    pixels[0, :, 3] = 0
    Image.fromarray(pixels).save(content, "PNG", exif=exif)
    expected = np.full((6, 4, 3), (30, 20, 10), np.uint8)
    expected[:, -1] = 255  # what was the first row
    np.testing.assert_array_equal(decode(content.getvalue()), expected)


def test_a_large_picture_is_reduced_and_said_so(client):
    taken = client.post("/pictures", data=encoded(np.zeros((30, 4096, 3), np.uint8))).get_json()
    assert (taken["width"], taken["height"]) == (2048, 15)
    assert taken["note"] == "4096 x 30 pixels, reduced to 2048 x 15"


def test_an_upload_over_the_limit_is_refused(client):
    answer = client.post("/pictures", data=b"0" * (page.MOST_BYTES + 1))
    assert answer.status_code == 413
    assert "larger than 16 MiB" in answer.get_json()["error"]


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({"picture": "../../etc/passwd"}, 404, "no longer in memory"),
        ({"models": [7]}, 404, "There is no model 7"),
        ({"models": []}, 400, "0 models were asked for"),
        ({"threshold": 2}, 400, "The threshold is 2.0"),
        ({"threshold": None}, 400, 'A drawing needs "picture"'),
        ({"layers": 3}, 400, 'A drawing needs "picture"'),
    ],
)
def test_a_request_that_makes_no_sense_is_answered_with_what_is_wrong(
    client, asked, status, message
):
    token = client.post("/frames/0").get_json()["picture"]
    good = {"picture": token, "models": [0], "threshold": 0.5, "layers": []}
    answer = client.post("/drawings", json={**good, **asked})
    assert answer.status_code == status
    assert message in answer.get_json()["error"]


def test_frames_are_numbers_and_paths_lead_nowhere(client, gallery):
    assert len(client.get("/choices").get_json()["frames"]) == len(gallery.frames) == 2
    assert client.post("/frames/99").status_code == 404
    for path in ("/frames/..%2f..%2fetc%2fpasswd", "/static/../page.py", "/static/%2e%2e/page.py"):
        assert client.open(path, method="GET").status_code in (404, 405)


def test_other_hosts_and_pages_of_other_sites_are_refused(client):
    assert client.get("/", headers={"Host": "127.0.0.1:7860"}).status_code == 200
    assert client.get("/", headers={"Host": "[::1]:7860"}).status_code == 200
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    answer = client.post("/frames/0", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    assert "other sites" in answer.get_json()["error"]


def test_pictures_leave_memory_when_others_come(gallery, photo):
    tokens = [gallery.add(encoded(photo))["picture"] for _ in range(9)]
    with pytest.raises(UserError, match="no longer in memory"):
        gallery.predict(tokens[0], 0)
    image, found, _ = gallery.predict(tokens[-1], 0)
    np.testing.assert_array_equal(image, photo)
    assert gallery.predict(tokens[-1], 0)[1] is found  # a threshold costs no second run


def test_a_model_that_cannot_be_loaded_is_an_error_on_the_page(output, tmp_path, photo):
    broken = TrainedModel("broken", output / "streets/seed_0/config.yaml", tmp_path / "w.pth")
    broken.weights.write_bytes(b"no weights")
    gallery = page.Gallery([broken])
    client = page.create_app(gallery).test_client()
    answer = drawing(client, gallery.add(encoded(photo))["picture"])
    assert answer.status_code == 400
    assert "w.pth" in answer.get_json()["error"]


def test_the_server_listens_on_loopback_alone_and_names_a_port_that_is_taken(gallery):
    server = page.serve(gallery, port=0)
    try:
        assert server.socket.getsockname()[0] == "127.0.0.1"
        with pytest.raises(UserError, match=r"port \d+: .*Choose another --port"):
            page.serve(gallery, port=server.port)
    finally:
        server.server_close()


def test_nothing_of_the_page_comes_from_another_host(client):
    for name in ("/", "/static/page.js", "/static/page.css", "/static/icon.svg"):
        answer = client.get(name)
        assert answer.status_code == 200
        text = answer.get_data(as_text=True).replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text
        assert "https:" not in text
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_the_command_without_a_model_says_what_to_do(repository, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "tools/demo_page.py", "--output", str(tmp_path)],
        cwd=repository, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no trained model below" in done.stderr
    assert "make quickstart" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def address(gallery):
    server = page.serve(gallery, port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with api.sync_playwright() as playwright:
        try:
            # a sandbox inside of a container is seldom allowed; only our own page is opened
            launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except api.Error as error:
            first_line = str(error).strip().splitlines()[0]
            pytest.skip(f"needs a Chromium that starts (apt-get install chromium): {first_line}")
        yield launched
        launched.close()


def wait_for_drawing(tab, before=0):
    tab.wait_for_function(
        "n => Number(document.getElementById('results').dataset.shown || 0) > n", arg=before
    )
    return int(tab.get_attribute("#results", "data-shown"))


def test_a_person_drops_a_photo_slides_the_threshold_and_compares(
    browser, address, photo, tmp_path
):
    (tmp_path / "street.png").write_bytes(encoded(photo))
    (tmp_path / "notes.txt").write_text("no picture")
    tab = browser.new_page()
    asked, complaints = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector("body[data-ready=yes]")
    assert tab.locator("#first option").all_inner_texts() == ["streets/seed_0", "streets/seed_1"]

    slide = (
        "value => { const slider = document.getElementById('threshold'); slider.value = value;"
        " slider.dispatchEvent(new Event('input')); }"
    )
    tab.evaluate(slide, "0")
    tab.set_input_files("#file", tmp_path / "street.png")
    shown = wait_for_drawing(tab)
    image = tab.locator("#panel-0 img")
    low = image.get_attribute("src")
    assert image.evaluate("x => [x.naturalWidth, x.naturalHeight]") == [128, 64]
    assert not tab.inner_text("#panel-0").startswith("0 instances")

    tab.evaluate(slide, "1")
    shown = wait_for_drawing(tab, shown)
    assert image.get_attribute("src") != low
    assert "0 instances" in tab.inner_text("#panel-0")
    assert tab.inner_text("#threshold-value") == "1.00"

    tab.set_input_files("#file", tmp_path / "notes.txt")
    tab.wait_for_selector("#message:visible")
    assert "is not a picture" in tab.inner_text("#message")

    tab.evaluate(slide, "0")
    shown = wait_for_drawing(tab, shown)
    tab.select_option("#second", label="streets/seed_1")
    shown = wait_for_drawing(tab, shown)
    assert not tab.is_visible("#message")
    assert "by the second alone" in tab.inner_text("#difference")
    assert tab.locator("#results figure").count() == 3

    before = tab.locator("#panel-0 img").get_attribute("src")
    tab.select_option("#frame", index=1)
    wait_for_drawing(tab, shown)
    assert tab.locator("#panel-0 img").get_attribute("src") != before
    assert not complaints
    assert all(url.startswith((address, "data:")) for url in asked)
    tab.close()


def test_a_photo_can_be_dropped_on_the_page(browser, address, photo):
    tab = browser.new_page()
    tab.goto(address)
    tab.wait_for_selector("body[data-ready=yes]")
    content = base64.b64encode(encoded(photo)).decode()
    tab.evaluate(
        """content => {
            const bytes = Uint8Array.from(atob(content), x => x.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "../../street.png"));
            const drop = document.getElementById("drop");
            drop.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }""",
        content,
    )
    wait_for_drawing(tab)
    assert tab.inner_text("#status") == "128 x 64 pixels"
    tab.close()
