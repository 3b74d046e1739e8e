// All operators at once.
#pragma once

#include "aim_kernels/ada_ln_norm.h"
#include "aim_kernels/causal_conv1d.h"
#include "aim_kernels/common.h"
#include "aim_kernels/group_norm_silu.h"
#include "aim_kernels/image.h"
#include "aim_kernels/linear.h"
#include "aim_kernels/linear_quantized.h"
#include "aim_kernels/mamba2_decode_step.h"
#include "aim_kernels/norm_conv.h"
#include "aim_kernels/rms_norm_gated.h"
#include "aim_kernels/sample.h"
#include "aim_kernels/selective_scan.h"
#include "aim_kernels/transpose.h"
