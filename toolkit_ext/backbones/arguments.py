"""What a configuration may say of an architecture: names and plain values, never a source of weights.

A ``config.json`` may come from a stranger, and timm's factories take more than the shape of a network: files and
addresses to load weights from, whole configurations, functions. So an argument passes only if its name is listed here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from timm.models import get_arch_name, is_model

from toolkit_ext.errors import UserError

# Options of timm.create_model and its builder that are no part of the architecture: the caller's own, never recorded.
NOT_RECORDED = frozenset(
    (
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_strict",
        "checkpoint_path",
        "cache_dir",
        "scriptable",
        "exportable",
        "no_jit",
    )
)

# Parameters of the classifiers of timm 1.0.26 to 1.0.31 and of this package that JSON can express. Two of them only
# look like sources of weights: pretrained_window_sizes (of attention) and use_checkpoint (less memory in training).
_NAMES = """
    aa_layer aa_stem_only abs_win_pos_embed act_layer alpha always_partition attn attn_act_layer attn_bias attn_drop
    attn_drop_rate attn_early attn_gain attn_gated attn_groups attn_head_dim_reduction attn_kwargs attn_layer attn_mlp
    attn_mlp_ratio attn_only_layer_scale attn_pool_mlp_ratio attn_pool_num_heads attn_ratio attn_stage attn_type
    attn_types attn_upsample aux_logits avg_down b base base_dim base_dims base_width basic bidirectional block_args
    block_config block_fn block_kwargs block_ratio block_reduce_first block_type bn_eps bn_momentum bn_size bn_tf
    bottle_ratio bottleneck_width_ratio cardinality ch_div channel_attention channel_attn_v2 channel_multiplier channels
    class_token cls_attn_layers cls_ratio conv_act_layer conv_attn_act_layer conv_attn_early conv_attn_layer
    conv_attn_ratio conv_bias conv_block_type conv_downsample_pool_type conv_expand_output conv_expand_ratio
    conv_group_size conv_init conv_init_values conv_kernel_size conv_layer conv_mlp conv_norm_eps conv_norm_layer
    conv_norm_layer_cl conv_output_bias conv_padding conv_pool_type conv_pre_norm_act conv_ratio conv_stride_mode
    cpe_act crop_scale cross_linear crpe_window d2_scales deepen_factor depth depth_list depth_mult depth_token_only
    depths dim dim_head dim_mul dims distillation distilled down_growth down_kernel_size down_op down_ops down_pad
    down_patch_size down_shortcut down_stride downsample downsample_block downsample_expand_ratios
    downsample_kernel_size downsample_norm downsample_padding downsample_pool_type downsample_ratio downsamples
    drop_block_rate drop_block_size drop_connect_rate drop_path_rate drop_rate dw_act_layer dynamic_img_pad
    dynamic_img_size embed_dim embed_dims embed_layer embed_norm embed_norm_layer embed_proj_type
    enable_patch_interpolator encoder_pool eps eta expand_attn expand_first expand_groups expand_output expand_ratio
    expansion_ratio extra_conv extra_norm_period extra_norm_stage fc_act_layer fc_norm feature_dim ffn ffn_ratio
    final_chs final_norm first_stride fix_init fix_stem focal_levels focal_windows fused_conv fused_downsample
    gamma_in_act global_att_blocks global_attn_indexes global_block_counts global_pool global_pos_size grid_size group
    group_min_ratio group_size groups growth_rate growth_rates head head_bias head_conv_bias head_dim head_first head_fn
    head_hidden_size head_init_scale head_mul head_norm head_norm_first head_type head_widths heads hidden_sizes
    img_scale img_size inc_sec init_channels init_values initial_chs inner_dim inplanes input_3x3 input_norm_layer
    intermediate_size is_downsample_block k_r k_sec kernel_qkv kernel_size kernel_sizes kernels key_dim layer_scale
    layer_scale_init_value layer_scale_init_values layers layerscale_value legacy levels linear linear_out lkc_use_act
    local_conv_size local_mbconv_norm local_up_to_layer locality_strength ls_init_value mask_unit_attn mask_unit_size
    mbconv_expand_ratio memory_efficient merge_size mix_block_ratio mlp mlp_act mlp_bias mlp_layer mlp_ratio
    mlp_ratio_token_only mlp_ratios mode msfa_indices msfa_output_resolution multi_conv n_div named_blocks neck_chans
    nlhb no_block_attn no_embed_class norm_eps norm_layer norm_layer_cl norm_layers normalize_modulator num_blocks
    num_blocks_list num_features num_heads num_heads_inner num_heads_outer num_init_features num_kv_heads num_levels
    num_reg_tokens num_rnn_layers num_vit out_chs outlook_attention output_bias output_norm output_stride pad_type
    padding padding_same parallel_depth partial_dim partition_ratio patch_drop_rate patch_kernel patch_norm
    patch_padding patch_size patch_sizes patch_stride patchify_channels_last pconv_fw_type pool pool_first
    pool_include_prefix pool_size pool_type pooling_kernel_size pooling_scale pos_drop_drate pos_drop_rate pos_embed
    pos_embed_align_corners pos_embed_antialias pos_embed_ar_preserving pos_embed_grid_size pos_embed_interp_mode
    pos_embed_use_grid_sample pos_embs position_embedding_size post_layers pre_norm pre_norm_act preact
    pretrained_window_sizes proj_bias proj_drop proj_drop_rate q_pool q_stride qk_dim qk_norm qkv_bias qkv_fused
    reduction ref_feat_shape reg reg_tokens rel_pos_dim rel_pos_type reparam replace_stem_pool repmixer_kernel_size
    res_scale_init_values residual_pooling rope_grid_indexing rope_grid_offset rope_jitter_coords rope_mixed_mode
    rope_mrope_section rope_ref_feat_shape rope_rescale_coords rope_rotate_half rope_shift_coords rope_temperature
    rope_theta rope_type same_padding scale scale_attn_inner scale_attn_inner_norm scale_attn_norm scale_mlp
    scale_mlp_norm se_downsamples se_from_exp se_layer se_ratio self_attn_kwargs self_attn_layer sep_pos_embed
    sequential_attn serial_depths shared_rel_pos shortcut_bias shortcut_root skipinit small small_kernels spatial_conv
    sr_ratios ssd_expand stage_type standardize state_dim std_conv_eps stem_bias stem_chs stem_expand_ratio
    stem_hidden_dim stem_kernel_size stem_mid_norm stem_norm stem_pool stem_size stem_stride stem_type
    stem_use_scale_branch stem_width strict_img_size stride stride_kv stride_kv_adaptive stride_mode stride_q strides
    swiglu_align_to swiglu_mlp token_mixers tokens_norm transformer_act_layer transformer_attn_bias
    transformer_attn_drop transformer_depths transformer_dim_head transformer_drop_path transformer_expand_first
    transformer_expand_ratio transformer_grid_size transformer_head_first transformer_init_values
    transformer_no_block_attn transformer_norm_eps transformer_norm_layer transformer_norm_layer_cl
    transformer_partition_ratio transformer_pool_type transformer_proj_drop transformer_rel_pos_dim
    transformer_rel_pos_type transformer_shortcut_bias transformer_use_nchw_attn transformer_window_size
    transition_compression_ratio types union use_abs_pos use_abs_pos_emb use_aux_head use_checkpoint use_clipped_linears
    use_cls_token use_conv use_expand_proj use_fc_norm use_grn use_key_only_attn_mask use_lab use_layer_scale
    use_mix_token use_mlp_head use_msfa use_naflex use_nchw_attn use_overlap_down use_pos_emb use_pos_embed
    use_post_norm use_post_norm_in_modulation use_post_transformer_norm use_pre_transformer_norm use_rel_pos
    use_rel_pos_bias use_rope use_rot_pos_emb use_shared_rel_pos_bias v2 version vit_stem w0 wa weight_init widen
    widen_factor width width_factor width_list width_mult widths window_ratio window_size window_sizes window_spec
    with_fc wm wss zero_init_fc zero_init_last
    """
ARCHITECTURE = frozenset(_NAMES.split())

_LARGEST, _DEEPEST, _LONGEST = 100_000, 4, 1000
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_WORD = re.compile(r"[A-Za-z0-9_.+-]{0,64}")


def is_architecture(name: object) -> bool:
    """Whether ``name`` is in timm's registry, without a prefix such as ``hf-hub:`` that says where to look."""
    return isinstance(name, str) and bool(_WORD.fullmatch(name)) and is_model(name)


def check_arguments(arguments: object) -> dict[str, Any]:
    """Return ``arguments`` of an architecture if a configuration may hold them.

    Args:
        arguments: Names listed in :data:`ARCHITECTURE`, with values that are finite numbers (integers of at most
            100000), truth values, words, null, and short lists and dictionaries of these.

    Raises:
        UserError: anything else.
    """
    if not isinstance(arguments, Mapping):
        raise UserError(f"model_args: {shown(arguments)} is not allowed; a dictionary of arguments")
    for name, value in arguments.items():
        if name not in ARCHITECTURE:
            raise UserError(
                f"unexpected keyword argument {shown(name)} in model_args; allowed: arguments of architectures"
                " that are plain values, no source of weights"
            )
        _check_value(f"model_args: {name}", value, _DEEPEST)
    if "base" in arguments and not (is_architecture(base := arguments["base"]) and get_arch_name(base) == base):
        raise UserError(f"model_args: base: {shown(arguments['base'])} is not allowed; the name of an architecture")
    return dict(arguments)


def _check_value(option: str, value: object, depth: int) -> None:
    if isinstance(value, list | tuple | Mapping):
        _check_nested(option, value, depth)
    elif not _is_plain(value):
        raise UserError(
            f"{option}: {shown(value)} is not allowed; a finite number, an integer of at most {_LARGEST}, a word,"
            " true, false or null"
        )


def _check_nested(option: str, value: Any, depth: int) -> None:
    if not depth or len(value) > _LONGEST:
        raise UserError(f"{option}: is not allowed; at most {_LONGEST} values, nested at most {_DEEPEST} deep")
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name in NOT_RECORDED:
                raise UserError(f"{option}: {shown(name)} is not allowed as a name")
    for inner in value.values() if isinstance(value, Mapping) else value:
        _check_value(option, inner, depth - 1)


def _is_plain(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) <= _LARGEST
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str) and bool(_WORD.fullmatch(value))


def shown(value: object) -> str:
    """``value`` in one short line, whatever it is: a number of thousands of digits has no text in Python."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
