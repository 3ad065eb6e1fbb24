"""The arguments of training.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils import parsing as parse
from utils.data_roots import DATA_ROOT_TEXT, DataRoot, parse_data_root
from utils.errors import InputError
from utils.jobs import SLURM_TEXT, check_job_arguments, key_values
from utils.protocols import PROTOCOLS, arguments_of, check_protocol

# These describe the current call and machine, so a resumed run does not take them from its checkpoint.
NOT_INHERITED = (
    "test", "resume_model", "overwrite", "gpu_num", "num_workers", "sync_bn", "checkpoint_blocks", "submit", "nodes",
    "slurm",
)  # fmt: skip

# The defaults that each --recipe changes. The authors' code applies its scales 1, 2, 10 to classification, global and
# local loss, in this order; ours is classification, local, global.
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "official": {
        "channels": "BGR",
        "lr_schedule": "official",
        "oversample": "paper",
        "precision": "fp32",
        "scales": [1.0, 10.0, 2.0],
    },
}


@dataclass(kw_only=True)
class TrainingArguments:
    """Every argument of training.py; the help texts document the fields."""

    name: str = parse.argument(
        "train_model",
        parse.folder_name,
        "name of the run and of its folder under --save_path (without --name, a resumed run keeps its name, and a test "
        "takes the name of the checkpoint's folder plus _test)",
        "run",
    )
    gpu_num: str | None = parse.argument(None, str, parse.GPU_NUM_TEXT, "run")
    seed: int = parse.argument(0, parse.count_or_zero, "seed of all random numbers", "run")

    submit: str = parse.argument(
        "local", parse.one_of("local", "slurm"), "where the training runs: local, or slurm for a SLURM cluster", "run"
    )
    nodes: int = parse.argument(1, parse.count, "number of nodes with --submit slurm", "run")
    slurm: dict[str, str] = parse.argument({}, key_values, SLURM_TEXT, "run")

    recipe: str = parse.argument(
        "default",
        parse.one_of(*RECIPES),
        "set of defaults: default, or official (as in the authors' code: --channels BGR --lr_schedule "
        "official --oversample paper --precision fp32 --scales 1,10,2)",
        "train",
    )
    model: str = parse.argument(
        "resnet", str, "backbone of each LIB: resnet, efficientnet, mobilenet, or any timm model name", "train"
    )
    pretrained: bool | Path = parse.argument(
        True,
        parse.pretrained,
        "initial weights of the backbones: True (ImageNet), False (random), or a weights file",
        "train",
    )
    epoch: int = parse.argument(
        20, parse.count, "total number of epochs, including the epochs before a resume", "train"
    )
    weight_decay: float = parse.argument(
        1e-6, parse.number(float, 0), "weight decay of Adam, applied to the network and the loss weights", "train"
    )
    lr: float = parse.argument(1e-3, parse.positive, "initial learning rate of the network", "train")
    lr_schedule: str = parse.argument(
        "cosine",
        parse.one_of("cosine", "official"),
        "learning rate schedule: cosine (to 0 over the run) or official (as in the authors' code)",
        "train",
    )
    bs: int = parse.argument(
        256,
        parse.number(int, 2),
        "training batch size, in images, over all GPUs; a multiple of the number of processes",
        "train",
    )
    accumulate: int = parse.argument(
        1,
        parse.count,
        "number of micro-batches per batch, to save GPU memory; above 1, each micro-batch is computed twice and has "
        "its own batch norm statistics",
        "train",
    )
    checkpoint_blocks: bool = parse.argument(
        False,
        parse.boolean,
        "keep the activations of one LIB at a time to save GPU memory; each LIB is computed twice",
        "train",
    )
    sync_bn: bool = parse.argument(
        False, parse.boolean, "batch norm over the images of all processes (GPUs only)", "train"
    )
    test_bs: int = parse.argument(
        1000, parse.count, "validation and test batch size, in images, over all GPUs", "train"
    )
    precision: str = parse.argument(
        "auto",
        parse.one_of("auto", "fp32", "bf16", "fp16"),
        "number format of the backbones: fp32, bf16, fp16, or auto (bf16 where the GPU computes in it, and for ResNets "
        "where the CPU does; else fp32); heads and losses are in fp32",
        "train",
    )
    num_workers: int = parse.argument(
        12,
        parse.count_or_zero,
        "number of loader processes per training process; all together at most one per core",
        "train",
    )
    size: int = parse.argument(
        224, parse.size, "input size of the network in pixels: images are resized to size x size", "train"
    )
    mixup: bool = parse.argument(True, parse.boolean, "train on mixup blends of two images", "train")
    alpha: float = parse.argument(
        0.5, parse.number(float, 1e-3), "alpha of mixup: lambda ~ Beta(alpha, alpha)", "train"
    )
    oversample: str = parse.argument(
        "paper",
        parse.oversample,
        "repetitions of the real training videos: paper (FF++ 4, DFDC-Preview 4, Celeb-DF-v2 6, DFDC 5, others 1), "
        "auto (ratio of fake to real frames), or an integer",
        "train",
    )
    fpr: float | None = parse.argument(
        None,
        parse.share,
        "false positive rate, on the validation set, that fixes the decision thresholds of frames and of videos "
        "(0 to 1; default: the equal error rate point)",
        "train",
    )

    dataset: list[str] = parse.argument(
        ["FF++_c23"],
        parse.names,
        "comma-separated dataset names: training uses their union, a test evaluates each separately",
        "data",
    )
    dataset_root: Path = parse.argument(
        Path("dataset"), parse.path, "folder of the label files, with one subfolder per dataset", "data"
    )
    data_root: DataRoot = parse.argument(Path("."), parse_data_root, DATA_ROOT_TEXT, "data")
    channels: str = parse.argument(
        "RGB",
        parse.one_of("RGB", "BGR"),
        "channel order of the images, RGB or BGR; a resumed run and a test use the checkpoint's order",
        "data",
    )
    skip_bad_images: bool = parse.argument(
        False, parse.boolean, "skip and list images that cannot be read, instead of stopping", "data"
    )

    lil_loss: bool = parse.argument(True, parse.boolean, "use the Local Information Loss", "loss")
    gil_loss: bool = parse.argument(True, parse.boolean, "use the Global Information Loss", "loss")
    temperature: float = parse.argument(
        1.5, parse.positive, "temperature T of softmax(logits / T) in the local and the global loss", "loss"
    )
    mi_calculator: str = parse.argument(
        "kl", parse.one_of("kl", "w"), "divergence in both losses: kl (Kullback-Leibler) or w (Wasserstein)", "loss"
    )
    balance_loss_method: str = parse.argument(
        "auto",
        parse.one_of("auto", "hyper"),
        "weights of the loss terms: auto (learnt) or hyper (fixed by --scales)",
        "loss",
    )
    scales: list[float] = parse.argument(
        [1.0, 2.0, 10.0],
        parse.scales,
        "weights of the classification, local and global loss, used with --balance_loss_method hyper",
        "loss",
    )

    num_LIBs: int = parse.argument(4, parse.count, "number of Local Information Blocks", "model")
    resume_model: Path | None = parse.argument(
        None,
        parse.path,
        "checkpoint to resume from, or to evaluate with --test; also a shared model: its folder, or its name on the "
        "Hugging Face hub (user/model or user/model@revision); auto: resume from the newest intact checkpoint of "
        "--name, or start a new run if there is none",
        "model",
    )

    protocol: str | None = parse.argument(
        None,
        parse.one_of(*PROTOCOLS),
        f"test protocol: {', '.join(PROTOCOLS)}; sets --dataset, --frames_per_video, --frame_choice and --video_score",
        "evaluation",
    )
    frames_per_video: int | None = parse.argument(
        None, parse.count, "number of frames of each video in a test (default: all)", "evaluation"
    )
    frame_choice: str = parse.argument(
        "random",
        parse.one_of("random", "even"),
        "how --frames_per_video chooses: random (from --seed) or even (equal steps, with the first and last frame)",
        "evaluation",
    )
    video_score: str = parse.argument("mean", parse.video_score, parse.VIDEO_SCORE_TEXT, "evaluation")
    error: float = parse.argument(0.05, parse.share, parse.ERROR_TEXT, "evaluation")
    group_by: str | None = parse.argument(None, parse.pattern, parse.GROUP_BY_TEXT, "evaluation")

    test: bool = parse.argument(
        False, parse.boolean, "evaluate the checkpoint given with --resume_model; do not train", "checkpoint"
    )
    save_model: bool = parse.argument(
        True, parse.boolean, "write checkpoints; a run without them cannot continue", "checkpoint"
    )
    save_every_minutes: float = parse.argument(
        15.0, parse.number(float, 0), "minutes between checkpoints within an epoch; 0 for none", "checkpoint"
    )
    log_every: int = parse.argument(
        10,
        parse.count,
        "steps between two points of the TensorBoard curves, and between two checks that the losses are finite",
        "checkpoint",
    )
    save_path: Path = parse.argument(Path("output"), parse.path, "folder of all runs", "checkpoint")
    overwrite: bool = parse.argument(False, parse.boolean, "replace an earlier run of this name", "checkpoint")


def parse_training_arguments(
    argv: Sequence[str] | None, description: str | None = None, saved: Mapping[str, Any] | None = None
) -> TrainingArguments:
    """Parse a command line of training.py.

    Args:
        argv: the arguments; None for ``sys.argv[1:]``.
        description: the text above the flags in ``--help``.
        saved: arguments from a checkpoint, which replace the defaults, including the defaults of ``--recipe``.

    Raises:
        InputError: an unknown argument, a value that cannot be parsed, or one that contradicts ``--protocol``.
    """
    parser = parse.Parser("training.py", description, TrainingArguments)
    first = parser.parse(argv, saved)
    args = parser.parse(argv, {**RECIPES[first.recipe], **(saved or {}), **arguments_of(first.protocol)})
    check_protocol(args.protocol, vars(args))
    return args


def check_training_arguments(args: TrainingArguments) -> None:
    """Raise InputError if two arguments contradict each other, or if the weights file does not exist."""
    if not args.test:
        for name in ("protocol", "frames_per_video"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name} {getattr(args, name)} has an effect only in a test; add --test.")
    if args.test and args.resume_model is None:
        raise InputError("--test needs a checkpoint to evaluate; give --resume_model FILE.")
    if args.test and args.fpr is not None:
        raise InputError("--fpr sets the threshold during training, so it has no effect with --test; leave it out.")
    if args.frame_choice != TrainingArguments.frame_choice and args.frames_per_video is None:
        raise InputError(f"--frame_choice {args.frame_choice} needs the number of frames; add --frames_per_video.")
    check_job_arguments(args.submit, args.nodes, args.slurm)
    if isinstance(args.pretrained, Path) and args.resume_model is None and args.submit == "local":
        if not args.pretrained.is_file():
            raise InputError(f"--pretrained: there is no file {args.pretrained}; give True, False or a weights file.")
    if args.num_LIBs == 1 and args.lil_loss and not args.test:
        raise InputError("--num_LIBs 1 has no leave-one-out head and so no local loss; give --lil_loss False.")
