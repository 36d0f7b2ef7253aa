#!/bin/sh
# Vicuna-7B on 4 GPUs of 80 GB; MODEL, DATA, OUTPUT and GPUS are read from the environment, and
# flags that follow the name go before these: DATA=my.json scripts/train_vicuna_7b.sh --max_steps 2
set -eu
cd "$(dirname "$0")/.."

MODEL="${MODEL:-meta-llama/Llama-2-7b-hf}"
DATA="${DATA:-data/dummy_conversation.json}"
OUTPUT="${OUTPUT:-output_vicuna_7b}"

torchrun --nproc_per_node="${GPUS:-4}" --master_port="${MASTER_PORT:-20001}" \
  fastchat/train/train_mem.py \
  --model_name_or_path "$MODEL" \
  --data_path "$DATA" \
  --bf16 True \
  --output_dir "$OUTPUT" \
  --num_train_epochs 3 \
  --per_device_train_batch_size 2 \
  --per_device_eval_batch_size 2 \
  --gradient_accumulation_steps 16 \
  --global_batch_size 128 \
  --packing False \
  --eval_strategy steps \
  --eval_steps 1500 \
  --eval_split 0.02 \
  --save_strategy steps \
  --save_steps 1500 \
  --save_total_limit 8 \
  --learning_rate 2e-5 \
  --weight_decay 0. \
  --warmup_ratio 0.04 \
  --lr_scheduler_type cosine \
  --logging_steps 1 \
  --fsdp "full_shard auto_wrap" \
  --fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer \
  --tf32 True \
  --model_max_length 2048 \
  --gradient_checkpointing True \
  --lazy_preprocess True \
  "$@"
