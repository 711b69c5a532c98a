// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// A list of sanctioned addresses, as it is asked on chain.
contract SanctionsOracle {
    mapping(address => bool) public isSanctioned;

    function set(address account, bool sanctioned) external {
        isSanctioned[account] = sanctioned;
    }
}
