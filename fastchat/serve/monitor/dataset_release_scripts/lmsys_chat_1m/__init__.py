"""The steps of a release of conversations, in order.

sample, filter_bad_conv, final_post_processing, merge_oai_tag, compute_stats, upload_hf_dataset
"""
