// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {TestToken} from "./TestToken.sol";

/// A token whose payments take millions of gas.
contract HungryToken is TestToken {
    uint256 private constant APPETITE = 3_000_000;

    constructor(string memory name_, string memory version_) TestToken(name_, version_) {}

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        uint256 start = gasleft();
        while (start - gasleft() < APPETITE) {}
        _authorize(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
        authorizationState[from][nonce] = true;
        emit AuthorizationUsed(from, nonce);
        _transfer(from, to, value);
    }
}
