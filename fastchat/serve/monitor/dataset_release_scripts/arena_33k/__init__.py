"""The steps of a release of battles, in order.

sample, filter_bad_conv, merge_field, count_unique_users, upload_hf_dataset
"""
