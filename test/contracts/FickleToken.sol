// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {TestToken} from "./TestToken.sol";

/// A token that says yes to whoever asks and no to whoever sends: a call that
/// names no price for its gas is only a question.
contract FickleToken is TestToken {
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
        require(tx.gasprice == 0, "FickleToken: only asking");
        _authorize(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
        authorizationState[from][nonce] = true;
        emit AuthorizationUsed(from, nonce);
        _transfer(from, to, value);
    }
}
