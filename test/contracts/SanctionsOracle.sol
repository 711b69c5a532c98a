// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// A list of sanctioned addresses, asked like the oracles that are in use. Anybody
/// may change it.
contract SanctionsOracle {
    mapping(address => bool) private sanctioned;

    function set(address who, bool sanctioned_) external {
        sanctioned[who] = sanctioned_;
    }

    function isSanctioned(address who) external view returns (bool) {
        return sanctioned[who];
    }
}
