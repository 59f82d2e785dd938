"""A small log of every console format that patterns tell, made for these tests."""

from __future__ import annotations

import json

NANOGPT_TRAIN = """\
tokens per iteration will be: 491,520
number of parameters: 123.59M
step 0: train loss 10.9883, val loss 10.9878
iter 0: loss 10.9891, time 49873.06ms, mfu -100.00%
iter 1: loss 10.3921, time 1510.11ms, mfu 14.10%
step 10: train loss 9.4411, val loss 9.4502
saving checkpoint to out
iter 10: loss 9.4398, time 21512.91ms, mfu 12.81%
"""

BUILD_NANOGPT = """\
total desired batch size: 524288
=> calculated gradient accumulation steps: 4
validation loss: 10.9511
HellaSwag accuracy: 2534/10042=0.2523
step     0 | loss: 10.954952 | lr 8.3916e-07 | norm: 15.3411 | dt: 500.00ms | tok/sec: 1048576.00
step     1 | loss: 10.532101 | lr 1.6783e-06 | norm: 14.2001 | dt: 250.00ms | tok/sec: 2097152.00
validation loss: 9.5000
step     2 | loss: 9.512101 | lr 2.5175e-06 | norm: 9.1001 | dt: 900.00ms | tok/sec: 582542.00
"""

BUILD_NANOGPT_FILE = (
    "0 val 10.9511\n0 hella 0.2463\n0 train 10.954952\n1 train 10.5\n250 val 6.15\n"
)

LLMC = """\
+-----------------------+----------------------------------------------------+
| sequence length T     | 1024                                               |
| total batch size      | -1                                                 |
| train_num_batches     | 4                                                  |
num_parameters: 124475904 => bytes: 248951808
batch_size B=4 * seq_len T=1024 * num_processes=1 and total_batch_size=524288
=> setting grad_accum_steps=128
val loss 11.006021
step    1/4 | loss 11.007906 (+nanz)| norm 16.3235 (+nanz)| lr 2.86e-06 | 2734.72 ms | 39.7% bf16 \
MFU | 167751 tok/s
step    2/4 | loss 10.829729 (+0.11z)| norm 15.0011 (-1.20z)| lr 5.71e-06 | 2391.52 ms | 39.7% \
bf16 MFU | 191824 tok/s
val loss 10.609921
"""

MAXTEXT = """\
Config param global_batch_size_to_train_on: 4
Config param max_target_length: 128
Config param steps: 1000
I0101 10:00:01.000001 1 metric_logger.py:181] completed step: 0, seconds: 30.435, TFLOP/s/device: \
3.448, Tokens/s/device: 134.869, total_weights: 512, loss: 10.871, lm_loss: 10.801, perplexity: 1.0
I0101 10:00:02.000001 1 metric_logger.py:181] completed step: 1, seconds: 1.435, TFLOP/s/device: \
236.448, Tokens/s/device: 9423.869, total_weights: 500, loss: 10.512, lm_loss: 0.000, perplexity: 1
eval metrics after step: 2, loss=9.855, total_weights=75264.0
I0101 10:00:03.000001 1 metric_logger.py:181] completed step: 2, seconds: 1.436, TFLOP/s/device: \
236.448, Tokens/s/device: 9423.869, total_weights: 512, loss: 10.112
"""

LEVANTER = """\
INFO:levanter.callbacks:Progress on:train 101it/10.0kit rate:2.1it/s remaining:1:20:10 \
elapsed:00:50 postfix:loss=6.21
INFO:levanter.callbacks:Progress on:train 1.10kit/10.0kit rate:2.1it/s remaining:1:20:10 \
elapsed:08:50 postfix:loss=5.1
"""


def tracked(step: int, **metrics: float) -> str:
    """A record of Levanter's JSON tracker."""
    names = {name.replace("__", "/"): value for name, value in metrics.items()}
    record = {"tracker": "json_logger", "event": "log", "step": step, "metrics": names}
    return f"INFO:levanter.json_logger:{json.dumps(record)}\n"


LEVANTER_TRACKER = (
    tracked(0, train__loss=10.5, global_step=0)
    + tracked(0, throughput__total_tokens=65536)
    + tracked(0, optim__learning_rate=1e-4, grad__norm__total=2.5)
    + tracked(1, train__loss=9.5)
    + tracked(1, throughput__total_tokens=131072)
    + tracked(1, eval__c4__loss=9.7)
)

NEMO = """\
Sanity checking Validation: iteration 1/2
Training epoch 0, iteration 0/9999 | lr: 1.499e-07 | global_batch_size: 512 | global_step: 0 | \
reduced_train_loss: 12.03 | train_step_timing in s: 20.1
Training epoch 0, iteration 1/9999 | lr: 2.999e-07 | global_batch_size: 512 | global_step: 1 | \
reduced_train_loss: 12.02 | train_step_timing in s: 4.1 | consumed_samples: 1024
Validation: iteration 1/8
Validation: iteration 8/8
Training epoch 0, iteration 2/9999 | lr: 4.498e-07 | global_batch_size: 512 | global_step: 2 | \
reduced_train_loss: 11.98 | train_step_timing in s: 4.1 | consumed_samples: 1536 | val_loss: 11.99
Training epoch 0, iteration 3/9999 | lr: 4.498e-07 | global_batch_size: 512 | global_step: 3 | \
reduced_train_loss: 11.9 | train_step_timing in s: 4.1 | consumed_samples: 2048 | val_loss: 11.99
"""

COMPOSER = """\
[batch=1/100]:
\t Train time/batch: 0
\t Train time/sample: 0
\t Train time/token: 0
\t Train loss/train/total: 0.0053
\t Train metrics/train/LanguageCrossEntropy: 11.7641
\t Train lr-DecoupledAdamW/group0: 0.0000
[batch=2/100]:
\t Train time/batch: 1
\t Train time/sample: 256
\t Train time/token: 524288
\t Train loss/train/total: 0.0052
\t Train metrics/train/LanguageCrossEntropy: 11.5121
\t Train l2_norm/grad/global: 1.5000
[Eval batch=1/8] Eval on eval data
[Eval batch=8/8] Eval on eval data:
\t Eval metrics/eval/LanguageCrossEntropy: 11.4000
\t Eval metrics/eval/LanguagePerplexity: 89321.0
"""

TORCHTUNE = """\
Step 1 | loss:2.5312 lr:2e-05 tokens_per_second_per_gpu:3000.1 grad_norm:1.2 \n\
Step 2 | loss:2.4312 lr:1e-05 tokens_per_second_per_gpu:3000.1 grad_norm:1.1 \n\
Step 2 | val_loss:2.5 \n"""

PADDLENLP = """\
[2022-08-31 16:19:13,747] [    INFO] -   Total train batch size (w. parallel, distributed & \
accumulation) = 8
[2022-08-31 16:19:13,748] [    INFO] -   Total optimization steps = 37800.0
[2022-08-31 16:19:13,748] [    INFO] -   Number of trainable parameters = 118026368
[2022-08-31 16:19:16,008] [    INFO] - loss: 3.25806541, learning_rate: 2.9e-05, global_step: 10, \
interval_runtime: 2.2591, interval_samples_per_second: 3.541, epoch: 0.0265
[2022-08-31 16:19:17,556] [    INFO] - loss: 2.78513584, learning_rate: 2.8e-05, global_step: 20, \
interval_runtime: 1.5474, interval_samples_per_second: 5.17, epoch: 0.0529
[2022-08-31 16:19:42,031] [    INFO] - eval_loss: 2.104221820831299, eval_runtime: 12.07, epoch: \
0.0529
[2022-08-31 16:19:43,031] [    INFO] - eval_loss: 2.1, eval_runtime: 12.07, epoch: 0.0600
"""


def internevo(step: int, loss: float, tokens: int, norm: str = "'0_default': 12.5") -> str:
    """A step of InternEvo."""
    return (
        f"2024-05-01 10:00:0{step},001\tINFO pipeline.py:681 in record_current_batch_training_"
        f"metrics -- tflops=120.1 step={step} loss={loss} real_tgs=3600.1 tgs (tokens/gpu/second)="
        f"3600.1 lr=4e-07 loss_scale=65536.0 grad_norm={{{norm}}} micro_num=4 "
        f"num_consumed_tokens={tokens} inf_nan_skip_batches=0 loss_from_metric=11.6 \n"
    )


INTERNEVO = (
    internevo(0, 11.53, 131072, "'0_default': 12.5, '1_fp32': 0.0")
    + internevo(1, 11.21, 262144)
    + "2024-05-01 10:00:02,001\tINFO evaluation.py:127 in evaluate_on_val_dls -- Validation on en: "
    "step=2 val/en_loss=11.25 val/en_acc=0.1 val/en_plex=70000.0\n"
    + internevo(2, 11.0, 393216, "'0_default': 1.5, '2_moe_ep_size_4': 0.13")
)

MINDFORMERS = """\
2024-05-01 10:00:00,001 - mindformers[callback.py:340] - INFO - { Epoch:[  1/  2], step:[    2/  \
100], loss: 10.631, per_step_time: 1254ms, lr: 2.5e-07, overflow cond: False, global_norm: [3.1]
2024-05-01 10:00:01,001 - mindformers[callback.py:340] - INFO - { Epoch:[  2/  2], step:[    2/  \
100], loss:[10.331/10.4], per_step_time: 1000ms, lr: 5e-07, overflow cond: False, global_norm: \
2.9, train_throughput_per_npu: 2.896T
"""

DEEPSPEED = """\
[2023-05-01 09:59:00,001] [INFO] [config.py:964:print]   train_batch_size ............. 256
steps: 10 loss: 9.8123 iter time (s): 1.201 samples/sec: 213.1
steps: 20 loss: 9.1123 iter time (s): 1.191 samples/sec: 214.1
"""

FAIRSEQ = """\
2021-03-08 12:29:51 | INFO | fairseq_cli.train | num. model params: 13,110,865,920 (num. trained: \
13,110,865,920)
2021-03-08 12:31:36 | INFO | train_inner | {"epoch": 1, "update": 0.0, "loss": "16", "ppl": \
"65536", "wpb": "16384", "num_updates": "1", "lr": "2e-05", "gnorm": "20.751", "wall": "105"}
2021-03-08 12:32:33 | INFO | train_inner | {"epoch": 1, "update": 0.0, "loss": "17", \
"inner_loss": "12", "num_updates": "2", "lr": "4e-05", "gnorm": "19.777", "wall": "161"}
2021-03-08 12:33:33 | INFO | valid | {"epoch": 1, "valid_loss": "8", "valid_ppl": "256", \
"valid_num_updates": "2"}
"""


def hf_header(*, examples: int, batch: int, total: int) -> str:
    """What the Trainer says before it begins."""
    return (
        "***** Running training *****\n"
        f"  Num examples = {examples:,}\n"
        f"  Total train batch size (w. parallel, distributed & accumulation) = {batch:,}\n"
        f"  Total optimization steps = {total:,}\n"
    )


def bar(done: int, total: int) -> str:
    """A drawing of a progress bar."""
    return f"\r {done * 100 // total}%|#  | {done}/{total} [00:05<02:30,  1.93it/s]"


HF_HEADER = hf_header(examples=10_000, batch=64, total=300)

HF_STDOUT = (
    HF_HEADER
    + """\
{'loss': 9.1234, 'grad_norm': 1.23, 'learning_rate': 5e-05, 'epoch': 0.03}
{'loss': 8.4321, 'grad_norm': 1.11, 'learning_rate': 4.9e-05, 'epoch': 0.06}
{'eval_loss': 8.2, 'eval_runtime': 3.4, 'eval_samples_per_second': 29.4, 'epoch': 0.06}
{'loss': 7.9871, 'grad_norm': 0.98, 'learning_rate': 4.8e-05, 'epoch': 0.1}
{'train_runtime': 100.0, 'train_loss': 8.1, 'epoch': 0.1}
"""
)

HF_BAR = (
    bar(0, 300)
    + bar(9, 300)
    + "\r      \r{'loss': '9.123', 'grad_norm': '1.2', 'learning_rate': '5e-05', 'num_tokens': "
    "'3.725e+04', 'epoch': '0.1'}\n"
    + bar(10, 300)
    + bar(17, 300)
    + "\r{'loss': '8.123', 'grad_norm': '1.1', 'learning_rate': '4e-05', 'num_tokens': "
    "'7.725e+04', 'epoch': '0.2'}\n"
    + bar(20, 300)
    + bar(2, 4)
    + "\r{'eval_loss': '8.0', 'eval_runtime': '1', 'epoch': '0.2'}\n"
    + bar(20, 300)
    + bar(22, 300)
    + "\n"
)

CONSOLES = {
    "nanogpt-train": NANOGPT_TRAIN,
    "build-nanogpt": BUILD_NANOGPT,
    "llmc": LLMC,
    "maxtext": MAXTEXT,
    "levanter": LEVANTER,
    "nemo": NEMO,
    "composer": COMPOSER,
    "torchtune": TORCHTUNE,
    "paddlenlp": PADDLENLP,
    "internevo": INTERNEVO,
    "mindformers": MINDFORMERS,
    "deepspeed": DEEPSPEED,
    "fairseq": FAIRSEQ,
    "hf-stdout": HF_STDOUT,
}
"""By the name of their format."""
