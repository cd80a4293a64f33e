"""What is known of the published repositories: their names, and the files of one revision with their sums, to
recognise a damaged download.
"""

PUBLISHED_NAME = "deepgenteam/DeepGen-1.0-diffusers"
PUBLISHED_REVISION = "85c2ed257b9406d8531965c68e140dc7fdb81382"

# What a native checkpoint leaves out comes from these.
BASE_VLM = "Qwen/Qwen2.5-VL-3B-Instruct"
BASE_PIPELINE = "Skywork/UniPic2-SD3.5M-Kontext-2B"
# Of their repositories, what loading and converting read.
BASE_FILES = {
    BASE_VLM: ("*.json", "*.txt", "*.safetensors"),
    BASE_PIPELINE: ("model_index.json", "transformer/*", "vae/*", "scheduler/*"),
}

NOT_WEIGHTS = ("*.zip.part-*", "*.png", "*.jpg", "*.gguf")  # of a hub repository, not downloaded

# PUBLISHED_NAME at PUBLISHED_REVISION: tensors, elements and sha256 of each file
PUBLISHED = {
    "connector/model.safetensors": (
        103,
        432_449_532,
        "425ce59f596eeb573f9cd52138b775df47ce69c60d2782fb32cac5498ed208f3",
    ),
    "transformer/diffusion_pytorch_model.safetensors": (
        909,
        2_469_663_936,
        "54078ee51ab477275e94b610249ea912d6f80d24256c4197fe48945eef706883",
    ),
    "vae/diffusion_pytorch_model.safetensors": (
        244,
        83_819_683,
        "5a170129752b4ad4ab98996d2e59097c8c693afc31a5964bd2ad60896686c1e2",
    ),
    "vlm/model-00001-of-00002.safetensors": (
        628,
        2_498_840_576,
        "d6f11cc9c30184ce92605f25ac1e6b6644ee217e7b86a28282b3c9b17de3e609",
    ),
    "vlm/model-00002-of-00002.safetensors": (
        196,
        1_255_782_400,
        "c675c19a231b0ead141d8d3a05fe930892ddf17f1324d75bb94d2a42a79f7ebc",
    ),
}
