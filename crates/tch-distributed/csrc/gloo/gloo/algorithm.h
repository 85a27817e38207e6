// Named by torch's ProcessGroupGloo.hpp, which uses nothing of it.
#pragma once
