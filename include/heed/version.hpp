// SPDX-License-Identifier: BSD-3-Clause
// The one place where the version stands: the build reads it from here.
#pragma once

#define HEED_VERSION_MAJOR 0
#define HEED_VERSION_MINOR 1
#define HEED_VERSION_PATCH 0
// One number for comparisons: 10203 is 1.2.3.
#define HEED_VERSION (HEED_VERSION_MAJOR * 10000 + HEED_VERSION_MINOR * 100 + HEED_VERSION_PATCH)
