"""What to cite for the models and the method of a run.

Limits: a short list of published works, matched by the model's name; for any other model of the hub
its own card is named. Who wrote a model in a local folder is not known.
"""

import re

from actors.records import Row

METHOD = """@misc{synergy2024,
  title  = {Synergy-General-MultimodalPairs},
  author = {mao-code},
  year   = {2024},
  note   = {\\url{https://github.com/mao-code/Synergy-General-MultimodalPairs}}
}"""

SDXL = """@misc{podell2023sdxl,
  title         = {SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis},
  author        = {Dustin Podell and Zion English and Kyle Lacey and Andreas Blattmann and
                   Tim Dockhorn and Jonas M{\\"u}ller and Joe Penna and Robin Rombach},
  year          = {2023},
  eprint        = {2307.01952},
  archivePrefix = {arXiv}
}"""

SDXL_TURBO = """@misc{sauer2023adversarial,
  title         = {Adversarial Diffusion Distillation},
  author        = {Axel Sauer and Dominik Lorenz and Andreas Blattmann and Robin Rombach},
  year          = {2023},
  eprint        = {2311.17042},
  archivePrefix = {arXiv}
}"""

SDXL_LIGHTNING = """@misc{lin2024sdxllightning,
  title         = {SDXL-Lightning: Progressive Adversarial Diffusion Distillation},
  author        = {Shanchuan Lin and Anran Wang and Xiao Yang},
  year          = {2024},
  eprint        = {2402.13929},
  archivePrefix = {arXiv}
}"""

QWEN25_VL = """@misc{bai2025qwen25vl,
  title         = {Qwen2.5-VL Technical Report},
  author        = {Shuai Bai and Keqin Chen and Xuejing Liu and others},
  year          = {2025},
  eprint        = {2502.13923},
  archivePrefix = {arXiv}
}"""

LLAVA_NEXT = """@misc{liu2024llavanext,
  title  = {LLaVA-NeXT: Improved reasoning, OCR, and world knowledge},
  author = {Haotian Liu and Chunyuan Li and Yuheng Li and Bo Li and Yuanhan Zhang and
            Sheng Shen and Yong Jae Lee},
  year   = {2024},
  note   = {\\url{https://llava-vl.github.io/blog/2024-01-30-llava-next/}}
}"""

LLAVA = """@inproceedings{liu2023llava,
  title     = {Visual Instruction Tuning},
  author    = {Haotian Liu and Chunyuan Li and Qingyang Wu and Yong Jae Lee},
  booktitle = {NeurIPS},
  year      = {2023}
}"""

LLAVA_15 = """@inproceedings{liu2024improved,
  title     = {Improved Baselines with Visual Instruction Tuning},
  author    = {Haotian Liu and Chunyuan Li and Yuheng Li and Yong Jae Lee},
  booktitle = {CVPR},
  year      = {2024}
}"""

CLIP = """@inproceedings{radford2021clip,
  title     = {Learning Transferable Visual Models From Natural Language Supervision},
  author    = {Alec Radford and Jong Wook Kim and Chris Hallacy and Aditya Ramesh and
               Gabriel Goh and Sandhini Agarwal and Girish Sastry and Amanda Askell and
               Pamela Mishkin and Jack Clark and Gretchen Krueger and Ilya Sutskever},
  booktitle = {ICML},
  year      = {2021}
}"""

# By the name of the model, in lower case; the first that fits.
_WORKS = (
    (re.compile(r"llava-?(v)?1\.5"), LLAVA_15),
    (re.compile(r"llava-?(v)?1\.6|llava-next"), LLAVA_NEXT),
    (re.compile(r"llava"), LLAVA),
    (re.compile(r"qwen2\.5-vl"), QWEN25_VL),
    (re.compile(r"(sdxl|stable-diffusion-xl).*turbo"), SDXL_TURBO),
    (re.compile(r"(sdxl|stable-diffusion-xl).*lightning"), SDXL_LIGHTNING),
    (re.compile(r"sdxl|stable-diffusion-xl"), SDXL),
    (re.compile(r"clip"), CLIP),
)


def cite(model: Row) -> str | None:
    """The BibTeX of a model that is known by its name."""
    name = str(model["id"]).lower()
    return next((work for pattern, work in _WORKS if pattern.search(name)), None)


def hub_page(model: Row) -> str | None:
    """The address of a model that came from the hub."""
    revision, digest = model.get("revision"), str(model.get("digest") or "")
    is_from_hub = digest.startswith("git:")
    return f"https://huggingface.co/{model['id']}/tree/{revision}" if is_from_hub else None
