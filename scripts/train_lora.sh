#!/bin/sh
# A LoRA adapter on a GPU of 24 GB; MODEL, DATA, OUTPUT and GPUS are read from the environment, and
# flags that follow the name go before these: MODEL=my-model scripts/train_lora.sh --q_lora True
set -eu
cd "$(dirname "$0")/.."

MODEL="${MODEL:-meta-llama/Llama-2-7b-hf}"
DATA="${DATA:-data/dummy_conversation.json}"
OUTPUT="${OUTPUT:-output_lora}"

torchrun --nproc_per_node="${GPUS:-1}" --master_port="${MASTER_PORT:-20001}" \
  fastchat/train/train_lora.py \
  --model_name_or_path "$MODEL" \
  --data_path "$DATA" \
  --lora_r 8 \
  --lora_alpha 16 \
  --lora_dropout 0.05 \
  --output_dir "$OUTPUT" \
  --num_train_epochs 150 \
  --fp16 True \
  --per_device_train_batch_size 2 \
  --per_device_eval_batch_size 2 \
  --gradient_accumulation_steps 1 \
  --eval_strategy steps \
  --eval_steps 100 \
  --eval_split 0.02 \
  --save_strategy steps \
  --save_steps 200 \
  --save_total_limit 2 \
  --learning_rate 2e-5 \
  --weight_decay 0. \
  --warmup_ratio 0.03 \
  --lr_scheduler_type cosine \
  --logging_steps 1 \
  --tf32 True \
  --model_max_length 2048 \
  --gradient_checkpointing True \
  "$@"
