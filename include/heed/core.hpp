// SPDX-License-Identifier: BSD-3-Clause
// The light header: views, policies and shells, to name mechanisms in interfaces. No engine, no door.
#pragma once

#include <heed/family/pairwise.hpp>
#include <heed/family/recurrent.hpp>
#include <heed/family/spectral.hpp>
#include <heed/kernel/half.hpp>
#include <heed/policy/load/rotary.hpp>
#include <heed/policy/normalize/tropical.hpp>
#include <heed/policy/pattern/lengths.hpp>
#include <heed/policy/pattern/mask.hpp>
#include <heed/policy/pattern/tree.hpp>
#include <heed/policy/score/bias.hpp>
#include <heed/policy/score/contractions.hpp>
#include <heed/policy/score/softcap.hpp>
#include <heed/version.hpp>
#include <heed/view/adapt.hpp>
