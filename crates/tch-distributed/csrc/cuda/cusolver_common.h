// See cublas_v2.h.
#pragma once
typedef enum : int {} cusolverStatus_t;
